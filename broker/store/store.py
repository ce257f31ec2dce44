"""Where images, videos, stills and checkpoints lie: a folder, or a bucket of an object store.

A file has the same name in every store, as in `videos/ID.mp4`, and is there whole or not at all.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from broker.wire.job import IMAGE_PATTERN, JOB_ID_PATTERN

logger = logging.getLogger(__name__)

INPUTS, VIDEOS, CHECKPOINTS = "inputs", "videos", "checkpoints"
PARTIAL = f"{VIDEOS}/.partial"
"""Where videos are written; nothing in it is served."""
VIDEO, POSTER, SPRITES = ".mp4", ".webp", ".sprites.webp"
"""Suffixes of a job's files in the videos folder."""
FOLDERS = (INPUTS, VIDEOS, PARTIAL, CHECKPOINTS)
OBJECT_SCHEME = "s3://"
REFUSED_WRITES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a disk that takes nothing now but may later: it is full, or remounted read-only."""
_VIDEO_FILE = rf"({VIDEO}|{POSTER}|{SPRITES})".replace(".", r"\.")
_OWN = re.compile(
    rf"{INPUTS}/{IMAGE_PATTERN}"
    rf"|{VIDEOS}/{JOB_ID_PATTERN}{_VIDEO_FILE}"
    rf"|{re.escape(PARTIAL)}/([0-9a-f]{{32}}\.probe|{JOB_ID_PATTERN}\.[0-9]+{_VIDEO_FILE})"
    rf"|{CHECKPOINTS}/{JOB_ID_PATTERN}\.(safetensors|[0-9a-f]{{8}}\.part)"
)


class StoreError(OSError):
    """Raised when an object store cannot be reached or refuses; a later try may succeed."""


class StoreSetupError(Exception):
    """Raised when a store's name is invalid, or its library is not installed."""


class Move(NamedTuple):
    """A local file to move into the store."""

    file: Path
    name: str
    is_synced: bool = False
    """Whether its content would survive a power loss."""


def go_on() -> None:
    """Let a transfer go on: the default of `check`, which may raise to end one."""


class Store(Protocol):
    """A store as broker, fronts, ranks and launcher use it; every call blocks.

    A method that contacts an object store raises `StoreError` if that cannot be reached.
    """

    is_local: bool
    """Whether it answers at once, as a folder does."""

    def prepare(self) -> None:
        """Make missing local folders, and empty those that this process alone uses."""

    def partial(self, folder: str) -> Path:
        """Return the local folder in which files for a folder of the store are written."""

    def put(self, moves: Sequence[Move], check: Callable[[], None] = go_on) -> None:
        """Move files into the store in their order, each whole or not at all.

        Args:
            moves: The local files may be gone afterwards.
            check: Called repeatedly; an exception from it ends the transfer.

        Raises:
            OSError: If the disk is full, or fails.
        """

    def fetch(self, name: str, check: Callable[[], None] = go_on) -> Path:
        """Bring a file to this machine unless it is there; return its path.

        Raises:
            FileNotFoundError: If an object store has no such file.
        """

    def local(self, name: str) -> Path:
        """Return the path to which `fetch` brings a file."""

    def release(self, name: str) -> None:
        """Remove the copy that `fetch` made; the file stays in the store."""

    def has(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """Return the names of all files directly in a folder of the store."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; missing ones are no error. After a `StoreError` some may be gone."""

    def secret(self, name: str, fresh: bytes) -> bytes:
        """Return the content of a small file, which is `fresh` if there was none.

        Concurrent callers all get the same content.
        """


def is_object_place(place: str) -> bool:
    return place.startswith(OBJECT_SCHEME)


def is_own(name: str) -> bool:
    """Whether a file's name has the form of this server's; it removes no others on its own."""
    return _OWN.fullmatch(name) is not None


def checkpoint_name(job_id: str) -> str:
    # All attempts of a job share it.
    return f"{CHECKPOINTS}/{job_id}.safetensors"


def sync_folder(folder: Path) -> None:
    # Makes the renames in it survive a power loss.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
