"""A disk for SQLite, with the faults that disks have: it forgets, it fails, it is full."""

import contextlib
import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

_REAL = "unix"


class DiskError(apsw.IOError):
    """What SQLite makes of a call that fails, by a code that tells which one it was."""

    def __init__(self, code: int) -> None:
        super().__init__("disk I/O error")
        self.extendedresult = code


class PowerLossError(apsw.IOError):
    """What every call gets once the power is gone."""


class _Platter:
    """One file as it would be found after a power loss."""

    def __init__(self, durable: bytes) -> None:
        self.durable = bytearray(durable)
        self.is_named = bool(durable)
        """Whether its name is on disk for sure."""
        self.unsynced: list[tuple[int, bytes | None]] = []
        """Writes since the last sync, as offset and data; no data is a truncation."""

    def sync(self) -> None:
        for offset, data in self.unsynced:
            _apply(self.durable, offset, data)
        self.unsynced.clear()
        self.is_named = True

    def survive(self, chance: random.Random) -> bytes | None:
        """Return what is left: of the unsynced writes any, each of them whole, torn or lost."""
        if not self.is_named and chance.random() < 0.5:
            return None
        left = bytearray(self.durable)
        for offset, data in self.unsynced:
            if chance.random() < 0.5:
                _apply(left, offset, data if data is None else _tear(data, chance))
        return bytes(left)


class FaultyDisk(apsw.VFS):
    """The default disk of this process while it is in use; as real as its faults allow.

    Files lie where they always do. What a sync has not made durable is noted, so that
    `survivors` can tell what a power loss at this moment would leave.

    Args:
        before: Called with the name of each call before it is done; raises to make it fail.
    """

    NAME = "faulty"

    def __init__(self, before: Callable[[str], None]) -> None:
        self.before = before
        self.errno = errno.EIO
        """What the system says of the latest failure."""
        self.platters: dict[Path, _Platter] = {}
        super().__init__(self.NAME, _REAL, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_FaultyFile":
        self.before("open")
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        assert filename is not None, "no test needs temporary files"
        path = Path(filename)
        if path not in self.platters:
            self.platters[path] = _Platter(path.read_bytes() if path.exists() else b"")
        return _FaultyFile(self, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.before("delete")
        super().xDelete(filename, syncdir)
        self.platters.pop(Path(filename), None)

    def xGetLastError(self) -> tuple[int, str]:
        return self.errno, ""

    def survivors(self, folder: Path, chance: random.Random) -> None:
        """Write to a folder what a power loss now would leave."""
        for path, platter in self.platters.items():
            left = platter.survive(chance)
            if left is not None:
                (folder / path.name).write_bytes(left)


class _FaultyFile(apsw.VFSFile):
    def __init__(
        self, disk: FaultyDisk, path: Path, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._disk = disk
        self._path = path
        super().__init__(_REAL, name, flags)

    @property
    def _unsynced(self) -> list[tuple[int, bytes | None]]:
        return self._disk.platters[self._path].unsynced

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.before("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.before("write")
        super().xWrite(data, offset)
        self._unsynced.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.before("truncate")
        super().xTruncate(newsize)
        self._unsynced.append((newsize, None))

    def xSync(self, flags: int) -> None:
        self._disk.before("sync")
        self._disk.platters[self._path].sync()


@contextlib.contextmanager
def faulty_disk(before: Callable[[str], None] = lambda _call: None) -> Iterator[FaultyDisk]:
    """Let every journal that is opened meanwhile lie on a faulty disk."""
    disk = FaultyDisk(before)
    try:
        yield disk
    finally:
        disk.unregister()


class FailAt:
    """Makes the call of a number fail, and after it all others if so wanted."""

    def __init__(self, number: int, error: Callable[[], Exception], for_good: bool) -> None:
        self.num_calls = 0
        self._number = number
        self._error = error
        self._for_good = for_good

    def __call__(self, _call: str) -> None:
        self.num_calls += 1
        if self.num_calls == self._number or (self._for_good and self.num_calls > self._number):
            raise self._error()


def io_error() -> apsw.IOError:
    """Return what SQLite makes of EIO."""
    return DiskError(apsw.SQLITE_IOERR)


def refuse_writes(call: str) -> None:
    """Do what SQLite makes of any error of a write but ENOSPC."""
    if call == "write":
        raise DiskError(apsw.SQLITE_IOERR_WRITE)


def power_loss(after: int) -> FailAt:
    """Let a number of calls happen, and none after them."""
    return FailAt(after, lambda: PowerLossError("the power is gone"), for_good=True)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _tear(data: bytes, chance: random.Random) -> bytes:
    """Return the sectors of a write that have reached the disk."""
    return data if chance.random() < 0.5 else data[: chance.randrange(len(data) + 1) // 512 * 512]
