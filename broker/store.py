"""Where images, videos, stills and saved states are kept: a folder, or a bucket of an object store.

A file has one name in every store, as `videos/ID.mp4`. It is there whole or not at all.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
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


class FolderStore:
    """A folder on this machine's disk, or on one that all machines share.

    Files are made in it, synced and renamed, so that nothing is ever copied.
    """

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folders that are missing, private to this user; others' files stay."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in FOLDERS:
            (self.root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def partial(self, folder: str) -> Path:
        """Return a folder of the same disk."""
        # A saved state is made beside the last one, under another name.
        return self.root / folder if folder == CHECKPOINTS else self.root / folder / ".partial"

    def put(self, moves: Sequence[Move], check: Callable[[], None] = go_on) -> None:
        """Move whole files to their places, in the order that survives a power loss."""
        for move in moves:
            if not move.is_synced:
                with move.file.open("rb") as file:
                    os.fsync(file.fileno())
        check()
        for move in moves:
            move.file.rename(self.root / move.name)
        for folder in {(self.root / move.name).parent for move in moves}:
            sync_folder(folder)

    def fetch(self, name: str, check: Callable[[], None] = go_on) -> Path:
        """Return the file's place, be it there or not."""
        check()
        return self.root / name

    def local(self, name: str) -> Path:
        """Return the file's place."""
        return self.root / name

    def release(self, name: str) -> None:
        """Do nothing: there is no copy."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; none of one that cannot be read."""
        try:
            return [f"{folder}/{path.name}" for path in _files(self.root / folder)]
        except OSError as error:  # as when no more files can be opened
            logger.warning("cannot look into %s: %s", self.root / folder, error)
            return []

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; one that cannot be removed is swept at the broker's next start."""
        for name in names:
            try:
                (self.root / name).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("cannot remove %s: %s", self.root / name, error)

    def secret(self, name: str, fresh: bytes) -> bytes:
        """Return the content of a file that only this user may read."""
        path = self.root / name
        with suppress(FileNotFoundError):
            return path.read_bytes()
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(fresh)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process may be as quick
                path.hardlink_to(partial)
        finally:
            partial.unlink()
        return path.read_bytes()


def open_store(place: str, work_dir: str | None = None) -> Store:
    """Return the store at a place; nothing is asked of it yet.

    Args:
        place: A folder, or `s3://BUCKET/PREFIX`.
        work_dir: A folder of this process alone for files on their way; a folder needs none.

    Raises:
        StoreSetupError: If it is no such place, or the library for it is not installed.
    """
    if not is_object_place(place):
        return FolderStore(Path(place))
    from broker.object_store import ObjectStore  # (here, since it builds on this module)

    return ObjectStore(place, None if work_dir is None else Path(work_dir))


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


def _files(folder: Path) -> Iterable[Path]:
    return [path for path in folder.iterdir() if path.is_file()]
