"""Where images, videos, stills and saved states are kept: a folder, or a bucket of an object store.

A file has one name in every store, as `videos/ID.mp4`. It is there whole or not at all.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

logger = logging.getLogger(__name__)

INPUTS, VIDEOS, CHECKPOINTS = "inputs", "videos", "checkpoints"
PARTIAL = f"{VIDEOS}/.partial"
"""Where videos are made; what lies in it is never served."""
FOLDERS = (INPUTS, VIDEOS, PARTIAL, CHECKPOINTS)
OBJECT_SCHEME = "s3://"


class StoreError(OSError):
    """Raised when an object store cannot be reached, or refuses; the same may succeed later."""


class StoreSetupError(Exception):
    """Raised when there is no such kind of store, or its library is missing."""


class Move(NamedTuple):
    """A file of this machine that is to go into the store."""

    file: Path
    name: str
    is_synced: bool = False
    """Whether a power loss would leave its content."""


def go_on() -> None:
    """Let a transfer go on; what others do in its place may raise."""


class Store(Protocol):
    """What broker, fronts, ranks and launcher need of a store; every call blocks."""

    is_local: bool
    """Whether it answers at once: a folder, which is not asked over the network by us."""

    def prepare(self) -> None:
        """Make the folders on this machine that are missing, and empty those of this process."""

    def partial(self, folder: str) -> Path:
        """Return where on this machine files for a folder of the store are made."""

    def put(self, moves: Sequence[Move], check: Callable[[], None] = go_on) -> None:
        """Bring files into the store, each whole or not at all, the last one last.

        Args:
            moves: The local files may be gone afterwards.
            check: Called now and then; what it raises ends the transfer.

        Raises:
            StoreError: If the store cannot be reached.
            OSError: If the disk is full, or fails.
        """

    def fetch(self, name: str, check: Callable[[], None] = go_on) -> Path:
        """Bring a file to this machine, unless it is there; return its place.

        Raises:
            FileNotFoundError: If an object store has no such file.
            StoreError: If the store cannot be reached.
        """

    def local(self, name: str) -> Path:
        """Return the place on this machine to which `fetch` brings a file."""

    def release(self, name: str) -> None:
        """Forget the copy that `fetch` has made; the file stays in the store."""

    def has(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            StoreError: If the store cannot be reached.
        """

    def names(self, folder: str) -> list[str]:
        """Return the names of all files that are directly in a folder of the store.

        Raises:
            StoreError: If the store cannot be reached.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Remove files, whether they are there or not.

        Raises:
            StoreError: If the store cannot be reached; some may be gone.
        """

    def secret(self, name: str, fresh: bytes) -> bytes:
        """Return the content of a small file; put `fresh` there if there is none yet.

        Of several that do so at once, all get the same.

        Raises:
            StoreError: If the store cannot be reached.
        """


def is_object_place(place: str) -> bool:
    """Whether a place is one of an object store, be it well written or not."""
    return place.startswith(OBJECT_SCHEME)


def checkpoint_name(job_id: str) -> str:
    """Return the name of a job's saved state; every attempt shares it."""
    return f"{CHECKPOINTS}/{job_id}.safetensors"


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
