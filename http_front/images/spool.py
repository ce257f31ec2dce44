"""Temporary storage for an uploaded or fetched image until it is decoded."""

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError

MAX_IMAGE_BYTES = 20 << 20
_MEMORY_BYTES = 1 << 16
_STALE_AFTER_S = 3600.0
# Images on their way in, and decoded ones before they are named by their content.
_OWN = re.compile(r"[0-9a-f]{32}\.(upload|webp|ppm)")


class Spool:
    """Collects the bytes of one image: small ones in memory, larger ones in a file.

    Args:
        folder: Folder of the file, which is created when it is needed.
        field: The request field to name in errors.
    """

    def __init__(self, folder: Path, field: str = "image") -> None:
        self.num_bytes = 0
        self.field = field
        self.token: str | None = None
        """What stands in a JSON body for the data URL that was written to this spool."""
        self._folder = folder
        self._held = bytearray()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()

    @property
    def path(self) -> Path:
        """A file with all bytes so far; created if the bytes are still in memory."""
        return Path(self._spill().name)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all bytes so far."""
        return self._hash.digest()

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            FrontError: If the image becomes too large.
        """
        self.num_bytes += len(chunk)
        if self.num_bytes > MAX_IMAGE_BYTES:
            raise image_too_large(self.field)
        self._hash.update(chunk)
        self._held += chunk
        if self._file is not None or len(self._held) > _MEMORY_BYTES:
            self._spill()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)

    def _spill(self) -> BinaryIO:
        if self._file is None:
            # The folder may have been removed under the running server.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = (self._folder / f"{secrets.token_hex(16)}.upload").open("wb")
        self._file.write(self._held)
        # The decoder opens the file by name, so no bytes may stay in the buffer.
        self._file.flush()
        self._held.clear()
        return self._file


class Spools(NamedTuple):
    """The spools of a request's images."""

    image: Spool
    last_image: Spool

    def of(self, field: str, url: str | None) -> Spool:
        """Return the spool of an image: the one with its data URL, or else one without any."""
        own: Spool = getattr(self, field)
        arrived = [spool for spool in self if spool.token is not None and spool.token == url]
        free = [spool for spool in (own, *self) if spool.token is None]
        spool = (arrived + free)[0]
        spool.field = field
        return spool


def image_too_large(field: str) -> FrontError:
    return FrontError(
        ErrorCode.IMAGE_TOO_LARGE,
        f"the image has more than {MAX_IMAGE_BYTES} bytes (20 MiB)",
        field,
    )


@contextlib.contextmanager
def open_spool(folder: Path, field: str = "image") -> Iterator[Spool]:
    with contextlib.closing(Spool(folder, field)) as spool:
        yield spool


@contextlib.contextmanager
def open_spools(folder: Path) -> Iterator[Spools]:
    with (
        contextlib.closing(Spool(folder)) as image,
        contextlib.closing(Spool(folder, "last_image")) as last_image,
    ):
        yield Spools(image, last_image)


def prepare_folder(folder: Path) -> None:
    """Create the folder, and delete files that a killed front left in it, and no others."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in filter(_is_own, folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another front may delete it first
            if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
                path.unlink()


def _is_own(path: Path) -> bool:
    return _OWN.fullmatch(path.name) is not None and path.is_file()
