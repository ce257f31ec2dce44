"""A disk for SQLite with the faults of real ones: power losses, I/O errors, refused writes."""

import contextlib
import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

_REAL = "unix"


class DiskError(apsw.IOError):
    """Raised when a disk call fails; the code names the call as SQLite's extended result does."""

    def __init__(self, code: int) -> None:
        super().__init__("disk I/O error")
        self.extendedresult = code


class PowerLossError(apsw.IOError):
    """Raised by every call after a power loss."""


class _Platter:
    """One file as a power loss would leave it."""

    def __init__(self, durable: bytes) -> None:
        self.durable = bytearray(durable)
        self.is_named = bool(durable)
        """Whether its directory entry is on disk for sure."""
        self.unsynced: list[tuple[int, bytes | None]] = []
        """Writes since the last sync as offset and data; None as data is a truncation."""

    def sync(self) -> None:
        for offset, data in self.unsynced:
            _apply(self.durable, offset, data)
        self.unsynced.clear()
        self.is_named = True

    def survive(self, rng: random.Random) -> bytes | None:
        """Return the content after a power loss, or None if the file is gone.

        Each unsynced write is whole, torn or lost.
        """
        if not self.is_named and rng.random() < 0.5:
            return None
        content = bytearray(self.durable)
        for offset, data in self.unsynced:
            if rng.random() < 0.5:
                _apply(content, offset, data if data is None else _tear(data, rng))
        return bytes(content)


class FaultyDisk(apsw.VFS):
    """A SQLite VFS that is the default of this process while it is registered.

    Files lie at their usual paths. The disk records unsynced writes, so that `write_survivors` can
    write what a power loss at this moment would leave.

    Args:
        before: Called with the name of each call before it is made; raises to make it fail.
    """

    NAME = "faulty"

    def __init__(self, before: Callable[[str], None]) -> None:
        self.before = before
        self.errno = errno.EIO
        """The system's error number of the latest failure."""
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

    def write_survivors(self, folder: Path, rng: random.Random) -> None:
        """Write the files that a power loss now would leave."""
        for path, platter in self.platters.items():
            content = platter.survive(rng)
            if content is not None:
                (folder / path.name).write_bytes(content)


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
    """Put every journal opened meanwhile on a faulty disk."""
    disk = FaultyDisk(before)
    try:
        yield disk
    finally:
        disk.unregister()


class FailAt:
    """Makes the n-th call fail, and with `for_good` all calls after it."""

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
    """Return the error that SQLite raises for EIO."""
    return DiskError(apsw.SQLITE_IOERR)


def refuse_writes(call: str) -> None:
    """Fail writes as SQLite reports any write error except ENOSPC."""
    if call == "write":
        raise DiskError(apsw.SQLITE_IOERR_WRITE)


def power_loss(after: int) -> FailAt:
    """Let a number of calls succeed and fail all calls after them."""
    return FailAt(after, lambda: PowerLossError("the power is gone"), for_good=True)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _tear(data: bytes, rng: random.Random) -> bytes:
    """Return the sectors of a write that reached the disk."""
    return data if rng.random() < 0.5 else data[: rng.randrange(len(data) + 1) // 512 * 512]
