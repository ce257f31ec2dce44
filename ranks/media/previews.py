"""Previews of a running job, made by a thread that the steps do not wait for."""

import io
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from broker.wire.protocol import Lease
from ranks.media.latent_colours import Colours, paint

_EVERY_S = 0.5
_LONGEST_SIDE_PX = 320
_PX_PER_LATENT = 8


class Previews:
    """Plays the latest latents, a frame at a time, for those who watch the job.

    So the picture moves as the video will, also while a step takes long.

    Args:
        colours: Of the latents.
        send: Called by the thread with each picture, a JPEG of some kilobytes.
    """

    def __init__(self, colours: Colours, send: Callable[[Lease, bytes], None]) -> None:
        self._colours = colours
        self._send = send
        self._shown: tuple[Lease, NDArray[np.float32]] | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)

    def show(self, lease: Lease, latents: Tensor) -> None:
        """Go on with these latents, `[1, C, T, H, W]`, float32, on the CPU."""
        if not self._thread.ident:
            self._thread.start()
        with self._changed:
            self._shown = lease, latents[0].numpy()
            self._changed.notify()

    def end(self) -> None:
        """Show nothing more of the run."""
        with self._changed:
            self._shown = None
            self._changed.notify()

    def _run(self) -> None:
        frame = 0
        while True:
            lease, latents = self._await_shown()
            still = latents[:, frame % latents.shape[1]]
            # Latents spread about one. Early estimates overshoot, which would only be garish.
            calm = still / max(1.0, float(still.std()))
            self._send(lease, encode(paint(calm, self._colours)))
            frame += 1
            with self._changed:
                # Ends early only where the run does; later latents are there for the next picture.
                self._changed.wait_for(lambda: self._shown is None, timeout=_EVERY_S)

    def _await_shown(self) -> tuple[Lease, NDArray[np.float32]]:
        with self._changed:
            while self._shown is None:
                self._changed.wait()
            return self._shown


def encode(picture: Image.Image) -> bytes:
    """Return a picture with a pixel a latent as a JPEG in the video's size, or as large as fits."""
    scale = min(_PX_PER_LATENT, _LONGEST_SIDE_PX / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()
