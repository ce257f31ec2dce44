"""Previews of a running job, made in a thread so that no step waits for them."""

import io
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from broker.wire.job_view import Lease
from ranks.media.latent_colours import Colours, paint

_EVERY_S = 0.5
_LONGEST_SIDE_PX = 320


class Previews:
    """Sends the latest latents as pictures, one frame after the other.

    So the preview moves as the video will, even during a long step.

    Args:
        colours: Map from latents to colours.
        latent_px: Pixels of the video along the side of a latent.
        send: Called in the thread with each picture, a JPEG of a few kilobytes.
    """

    def __init__(
        self, colours: Colours, latent_px: int, send: Callable[[Lease, bytes], None]
    ) -> None:
        self._colours = colours
        self._latent_px = latent_px
        self._send = send
        self._shown: tuple[Lease, NDArray[np.float32]] | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)

    def show(self, lease: Lease, latents: Tensor) -> None:
        """Show these latents from now on: `[1, C, T, H, W]`, float32, CPU."""
        if not self._thread.ident:
            self._thread.start()
        with self._changed:
            self._shown = lease, latents[0].numpy()
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._shown = None
            self._changed.notify()

    def _run(self) -> None:
        frame = 0
        while True:
            lease, latents = self._await_shown()
            still = latents[:, frame % latents.shape[1]]
            # Latents have a standard deviation of about 1. Early estimates exceed it, which would
            # only look garish.
            scaled = still / max(1.0, float(still.std()))
            self._send(lease, encode_jpeg(paint(scaled, self._colours), self._latent_px))
            frame += 1
            with self._changed:
                # Returns early only if the run ends; new latents wait for the next picture.
                self._changed.wait_for(lambda: self._shown is None, timeout=_EVERY_S)

    def _await_shown(self) -> tuple[Lease, NDArray[np.float32]]:
        with self._changed:
            while self._shown is None:
                self._changed.wait()
            return self._shown


def encode_jpeg(picture: Image.Image, latent_px: int) -> bytes:
    """Enlarge a picture of one pixel per latent to the video's size, at most 320 px, as a JPEG."""
    scale = min(latent_px, _LONGEST_SIDE_PX / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()
