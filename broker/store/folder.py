"""A store that is a folder: on this machine's disk, or on one that all machines share."""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from broker.store.store import CHECKPOINTS, FOLDERS, Move, go_on, sync_folder

logger = logging.getLogger(__name__)


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


def _files(folder: Path) -> Iterable[Path]:
    return [path for path in folder.iterdir() if path.is_file()]
