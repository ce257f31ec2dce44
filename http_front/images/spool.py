"""The place where an image lies, as it came, until it has been decoded."""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from broker.wire.protocol import ErrorCode
from http_front.errors import FrontError

MAX_IMAGE_BYTES = 20 << 20
_HELD_BYTES = 1 << 16
_LEFT_OVER_AFTER_S = 3600.0


class Spool:
    """Takes an image's bytes up to the limit: a few in memory, more of them in a file.

    Args:
        path: Of the file, which comes to be when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self.num_bytes = 0
        self._path = path
        self._held = bytearray()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()

    @property
    def path(self) -> Path:
        """A file with all bytes so far."""
        self._spill()
        return self._path

    @property
    def digest(self) -> bytes:
        """SHA-256 of all bytes so far."""
        return self._hash.digest()

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            FrontError: If the image is then too large.
        """
        self.num_bytes += len(chunk)
        if self.num_bytes > MAX_IMAGE_BYTES:
            raise image_too_large()
        self._hash.update(chunk)
        self._held += chunk
        if self._file is not None or len(self._held) > _HELD_BYTES:
            self._spill()

    def close(self) -> None:
        """Close and remove the file."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)

    def _spill(self) -> None:
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.write(self._held)
        # Others read the file by name, so nothing may stay in a buffer.
        self._file.flush()
        self._held.clear()


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
