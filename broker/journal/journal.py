"""The journal: an SQLite file of jobs and their history, the one durable state of the server."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from broker.dispatch.job_record import Job
from broker.errors import BackupError, JournalError, JournalFullError
from broker.journal import pending_callbacks as callbacks
from broker.journal.tables import migrate
from broker.wire.protocol import Callback

_HISTORY_KEPT_S = 7 * 86_400.0
_DOCUMENT = msgspec.json.Decoder(Job)

_SAVE = """
    INSERT INTO jobs (number, document) VALUES (?, ?)
    ON CONFLICT (number) DO UPDATE SET document = excluded.document
"""


class Journal:
    """The open journal: one connection, used by one thread at a time.

    Raises:
        JournalError: If the file is damaged, in use, or of a later version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated():
            self._connection = apsw.Connection(str(path))
            try:
                self._prepare()
                migrate(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def load(self) -> list[Job]:
        """Return every job, the earliest submission first."""
        with self._translated():
            rows = self._connection.execute("SELECT document FROM jobs ORDER BY number")
            return [_DOCUMENT.decode(document).restored() for (document,) in rows]

    def write(self, saved: Sequence[Job], dropped: Sequence[str] = ()) -> None:
        """Write jobs and remove others in one transaction that is on disk on return.

        Raises:
            JournalFullError: If there is no room; nothing has changed then.
            JournalError: If the disk or the file cannot be trusted any more.
        """
        with self._transaction():
            rows = [(job.number, msgspec.json.encode(job).decode()) for job in saved]
            self._connection.executemany(_SAVE, rows)
            self._connection.executemany(
                "DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in dropped]
            )

    def take_callback(self, now_s: float) -> Callback | None:
        """Return the callback that is due; it comes again later unless it is ended."""
        with self._transaction():
            return callbacks.take(self._connection, now_s)

    def end_callback(self, job_id: str) -> None:
        """Make the callback of a job no more: it has been heard."""
        with self._transaction():
            callbacks.end(self._connection, job_id)

    def forget_history(self, now_s: float) -> None:
        """Remove the history that nobody will ask for any more."""
        with self._transaction():
            self._connection.execute("DELETE FROM history WHERE at < ?", (now_s - _HISTORY_KEPT_S,))

    def backup(self, path: Path) -> int:
        """Write a consistent copy to a file that does not exist yet; return its size.

        Raises:
            BackupError: If that is not possible; then there is no such file.
        """
        try:
            if path.exists():
                raise BackupError(f"{path} exists; a backup overwrites nothing")
            partial = path.with_name(f"{path.name}.partial")
            self._copy_to(partial)
            partial.rename(path)
            return path.stat().st_size
        except (apsw.Error, OSError) as error:
            raise BackupError(f"cannot write {path}: {error}") from error

    def _copy_to(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        # SQLite fills an empty file; ours may be read by this user only.
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            self._connection.execute("VACUUM INTO ?", (str(path),))
            os.fsync(file)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(file)

    def close(self) -> None:
        """Close the file; what was written is on disk already."""
        self._connection.close()

    def _prepare(self) -> None:
        # EXCLUSIVE comes before WAL: then there is no shared memory file, a second opener is
        # refused, and SQLite's WAL-reset corruption, which needs two connections, is out of reach.
        # There is nobody to wait for: whoever holds the file holds it until it ends.
        for setting, value in (
            ("locking_mode", "exclusive"),
            ("journal_mode", "wal"),
            ("synchronous", 2),
            ("foreign_keys", 1),
            ("trusted_schema", 0),
            ("mmap_size", 0),
            ("wal_autocheckpoint", 1000),
            ("cell_size_check", 1),
        ):
            self._connection.pragma(setting, value)
            self._expect(setting, value)
        self._expect("quick_check", "ok")

    def _expect(self, pragma: str, expected: object) -> None:
        found = self._connection.pragma(pragma)
        if found != expected:
            raise JournalError(f"{self._path}: {pragma} is {found!r}, not {expected!r}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except apsw.ConstraintError:
            # A broken rule of the schema is our own fault, not the disk's: let it show as it is.
            raise
        except (apsw.FullError, apsw.IOError) as error:
            if not self._is_full(error):
                raise JournalError(f"{self._path}: {error}") from error
            raise JournalFullError(f"no room to write {self._path}") from error
        # The last two come of a row that no program of ours has written.
        except (apsw.CorruptError, apsw.NotADBError, msgspec.MsgspecError, ValueError) as error:
            raise JournalError(
                f"{self._path} is damaged ({error}); put a backup in its place, "
                "or move it away to start with an empty queue"
            ) from error
        except apsw.Error as error:
            raise JournalError(f"{self._path}: {error}") from error

    def _is_full(self, error: apsw.Error) -> bool:
        if isinstance(error, apsw.FullError):
            return True
        # SQLite takes a quota that is used up for a disk that fails. What could not be written has
        # not happened; a sync that fails is not trusted, whatever the system says of it.
        code = getattr(error, "extendedresult", None)
        return code == apsw.SQLITE_IOERR_WRITE and self._connection.system_errno == errno.EDQUOT
