"""The state directory: the journal, and the lock that keeps a second broker out."""

import fcntl
import os
import time
from pathlib import Path

from broker.errors import StateDirInUseError
from broker.journal.filesystem import refuse_network

_END_LIMIT_S = 2.0
_POLL_S = 0.05


class StateDir:
    """The locked state directory.

    The lock comes before everything else: binding an `ipc://` address silently takes it away from
    a running broker.

    Raises:
        StateDirInUseError: If another broker holds the lock.
        UnfitStateDirError: If the directory lies on a network file system.
    """

    def __init__(self, path: Path) -> None:
        self.journal = path / "jobs.sqlite3"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_network(path)
        # Held until the process ends, however it ends.
        self._lock = os.open(path / "broker.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        if not self._is_locked():
            self.close()
            raise StateDirInUseError(f"another broker uses the state directory {path}")

    def _is_locked(self) -> bool:
        # The broker of a launcher that was killed may end a moment after it.
        deadline = time.monotonic() + _END_LIMIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def close(self) -> None:
        os.close(self._lock)
