"""The place where an image lies, as it came, until it has been decoded."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from broker.protocol import ErrorCode
from http_front.errors import FrontError

MAX_IMAGE_BYTES = 20 << 20
_LEFT_OVER_AFTER_S = 3600.0


class Spool:
    """A file that takes an image's bytes up to the limit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._file = path.open("wb")

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            FrontError: If the image is then too large.
        """
        self.num_bytes += len(chunk)
        if self.num_bytes > MAX_IMAGE_BYTES:
            raise image_too_large()
        self._file.write(chunk)
        # The decoder reads the file by name, so nothing may stay in our buffer.
        self._file.flush()

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def image_too_large() -> FrontError:
    """Return the error for an image over the limit."""
    return FrontError(
        ErrorCode.IMAGE_TOO_LARGE,
        f"the image has more than {MAX_IMAGE_BYTES} bytes (20 MiB)",
        "image",
    )


@contextlib.contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """Make a spool that is gone afterwards."""
    spool = Spool(folder / f"{secrets.token_hex(16)}.upload")
    try:
        yield spool
    finally:
        spool.close()


def prepare_folder(folder: Path) -> None:
    """Make the folder, and remove what a front that was killed has left in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another front may be as quick
            if time.time() - path.stat().st_mtime > _LEFT_OVER_AFTER_S:
                path.unlink()
