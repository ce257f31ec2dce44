"""A store that is a folder, on this machine's disk or on one that machines share."""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from broker.store.store import CHECKPOINTS, FOLDERS, Move, go_on, sync_folder

logger = logging.getLogger(__name__)


class FolderStore:
    """A folder as a store.

    Files are written in it, synced and renamed, so that nothing is ever copied.
    """

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        # Private to this user; files of other processes stay.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in FOLDERS:
            (self.root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def partial(self, folder: str) -> Path:
        # A checkpoint is written beside the last one, under another name.
        return self.root / folder if folder == CHECKPOINTS else self.root / folder / ".partial"

    def put(self, moves: Sequence[Move], check: Callable[[], None] = go_on) -> None:
        # Sync, rename and sync the folders: the order that survives a power loss.
        for move in moves:
            if not move.is_synced:
                with move.file.open("rb") as file:
                    os.fsync(file.fileno())
        check()
        for move in moves:
            target = self.root / move.name
            try:
                move.file.rename(target)
            except FileNotFoundError:
                # The folder may have been removed.
                self.prepare()
                move.file.rename(target)
        for folder in {(self.root / move.name).parent for move in moves}:
            sync_folder(folder)

    def fetch(self, name: str, check: Callable[[], None] = go_on) -> Path:
        check()
        return self.root / name

    def local(self, name: str) -> Path:
        return self.root / name

    def release(self, name: str) -> None:
        pass  # `fetch` makes no copy

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; none if it cannot be read."""
        try:
            return [f"{folder}/{path.name}" for path in _files(self.root / folder)]
        except OSError as error:  # for example, too many open files
            logger.warning("cannot list %s: %s", self.root / folder, error)
            return []

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self.root / name).unlink(missing_ok=True)
            except OSError as error:
                # The broker's next start sweeps it.
                logger.warning("cannot remove %s: %s", self.root / name, error)

    def secret(self, name: str, fresh: bytes) -> bytes:
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
            with suppress(FileExistsError):  # another process was faster
                path.hardlink_to(partial)
        finally:
            partial.unlink()
        return path.read_bytes()


def _files(folder: Path) -> Iterable[Path]:
    return [path for path in folder.iterdir() if path.is_file()]
