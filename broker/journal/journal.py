"""The journal: an SQLite file of jobs and their history, the one durable state of the server."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import assert_never

import apsw
import msgspec

from broker.dispatch.commands import DropModel, SaveKept, SaveModel
from broker.dispatch.job_record import Job
from broker.errors import (
    BackupError,
    JournalError,
    JournalFullError,
    JournalRemovedError,
    MissingJournalError,
    StateDirInUseError,
    UnfitJournalError,
)
from broker.journal import pending_callbacks as callbacks
from broker.journal.documents import read_job
from broker.journal.tables import migrate
from broker.store.store import REFUSED_WRITES, sync_folder
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import Callback

logger = logging.getLogger(__name__)

_HISTORY_KEPT_S = 7 * 86_400.0
_PROFILE = msgspec.json.Decoder(ModelProfile)

_SAVE = """
    INSERT INTO jobs (number, document) VALUES (?, ?)
    ON CONFLICT (number) DO UPDATE SET document = excluded.document
"""
_SAVE_MODEL = """
    INSERT INTO models (document) VALUES (?)
    ON CONFLICT (name) DO UPDATE SET document = excluded.document
"""

_SAVE_KEPT = """
    INSERT INTO kept (number, let_go_at) VALUES (?, ?)
    ON CONFLICT (number) DO UPDATE SET let_go_at = excluded.let_go_at
"""

Change = SaveModel | DropModel | SaveKept
"""A change besides those of jobs."""


def _profile(document: str) -> ModelProfile | None:
    try:
        return _PROFILE.decode(document)
    except msgspec.ValidationError as error:
        # Its groups report it again.
        logger.warning("forgot a model that another version has written: %s", error)
        return None


class Journal:
    """The open journal: one connection, for one thread at a time.

    Args:
        path: The file, which is created if it is missing.
        check_new: Called before the tables of a new journal are made; may raise to prevent that.

    Raises:
        JournalError: If the file is damaged, or of a later version.
        MissingJournalError: If the file is missing, but not its write-ahead log.
        StateDirInUseError: If another process has opened it.
    """

    def __init__(self, path: Path, check_new: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._expect_file_of_log()
        self._make_private()
        with self._translated():
            self._connection = apsw.Connection(str(path))
            try:
                self._prepare()
                if self._connection.pragma("user_version") == 0:
                    check_new()
                migrate(self._connection, path)
                self._inode = path.stat().st_ino
            except BaseException:
                self._connection.close()
                raise

    def load(self) -> list[Job]:
        """Return every job, the earliest submission first.

        One that another version wrote and this one cannot read in full has failed.
        """
        with self._translated():
            rows = self._connection.execute("SELECT number, document FROM jobs ORDER BY number")
            read = [read_job(number, document) for number, document in rows]
        if failed := [job for job, is_changed in read if is_changed]:
            with suppress(JournalFullError):  # the next start writes them
                self.write(failed)
        return [job.restored() for job, _ in read]

    def load_models(self) -> list[ModelProfile]:
        """Return the profile of every model that can be read, the first known one first."""
        with self._translated():
            rows = self._connection.execute("SELECT document FROM models ORDER BY number")
            return [profile for (document,) in rows if (profile := _profile(document)) is not None]

    def load_kept(self) -> dict[int, float | None]:
        """Return by number which jobs are kept (None), or since when they are not any more."""
        with self._translated():
            return dict(self._connection.execute("SELECT number, let_go_at FROM kept"))

    def write(
        self, saved: Sequence[Job], dropped: Sequence[str] = (), changes: Sequence[Change] = ()
    ) -> None:
        """Write all changes, and remove jobs, in one transaction, on disk when this returns.

        Raises:
            JournalFullError: If there is no room; nothing has changed.
            JournalError: If the disk or the file cannot be trusted any more.
            JournalRemovedError: If the file was removed; the open one holds the change.
        """
        with self._transaction():
            rows = [(job.number, msgspec.json.encode(job).decode()) for job in saved]
            self._connection.executemany(_SAVE, rows)
            for change in changes:
                self._change(change)
            self._connection.executemany(
                "DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in dropped]
            )
        self.expect_in_place()

    def _change(self, change: Change) -> None:
        match change:
            case SaveModel():
                document = msgspec.json.encode(change.profile).decode()
                self._connection.execute(_SAVE_MODEL, (document,))
            case DropModel():
                self._connection.execute("DELETE FROM models WHERE name = ?", (change.name,))
            case SaveKept():
                self._connection.execute(_SAVE_KEPT, (change.number, change.let_go_at))
            case _:
                assert_never(change)

    def take_callback(self, now_s: float, busy: Collection[str] = ()) -> Callback | None:
        with self._transaction():
            return callbacks.take(self._connection, now_s, busy)

    def end_callback(self, job_id: str) -> None:
        with self._transaction():
            callbacks.end(self._connection, job_id)

    def prune(self, now_s: float) -> None:
        """Forget old history, and callbacks above the limit of their owner."""
        with self._transaction():
            # Entries are written in the order of time, so that only the old ones are read.
            self._connection.execute(
                "DELETE FROM history WHERE entry < ifnull("
                "(SELECT entry FROM history WHERE at >= ? ORDER BY entry LIMIT 1), "
                "(SELECT max(entry) + 1 FROM history))",
                (now_s - _HISTORY_KEPT_S,),
            )
            callbacks.give_up_surplus(self._connection)

    def limit_callback_delays(self, now_s: float) -> None:
        with self._transaction():
            callbacks.limit_delays(self._connection, now_s)

    def backup(self, path: Path) -> int:
        """Write a consistent copy to a file that does not exist yet; return its size.

        Raises:
            BackupError: If that fails; no such file is left.
        """
        try:
            if path.exists():
                raise BackupError(f"{path} exists; a backup does not overwrite files")
            partial = path.with_name(f"{path.name}.partial")
            self._copy_to(partial)
            partial.rename(path)
            return path.stat().st_size
        except (apsw.Error, OSError) as error:
            raise BackupError(f"cannot write {path}: {error}") from error

    def _copy_to(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        # SQLite writes into an empty file; only this user may read this one.
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
        self._connection.close()

    def expect_in_place(self) -> None:
        """Check that a restart would find the open file.

        Raises:
            JournalRemovedError: If the file was removed or replaced.
        """
        try:
            is_ours = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            raise JournalRemovedError(f"{self._path} was removed under the running server")

    def put_back(self) -> None:
        """Write the open journal to its path again, and close it.

        Raises:
            BackupError: If that fails, or another file is there now.
        """
        saved = self._path.with_name(f"{self._path.name}.saved")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._copy_to(saved)
            self._connection.close()
            if self._path.exists():
                raise BackupError(f"another file is now {self._path}; the jobs are in {saved}")
            # The copy is complete. SQLite would apply the log of the removed file to it.
            self._wal.unlink(missing_ok=True)
            saved.rename(self._path)
            sync_folder(self._path.parent)
        except (apsw.Error, OSError) as error:
            raise BackupError(f"cannot write {saved}: {error}") from error

    def _make_private(self) -> None:
        # Prompts and callback URLs are for this user only; SQLite gives its log the same mode.
        # Another error is SQLite's to report.
        with suppress(OSError):
            self._path.chmod(0o600)
            self._wal.chmod(0o600)
        with suppress(OSError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def _expect_file_of_log(self) -> None:
        is_missing = not self._path.exists() or self._path.stat().st_size == 0
        if is_missing and self._wal.exists() and self._wal.stat().st_size > 0:
            # SQLite would delete the log.
            raise MissingJournalError(
                f"{self._path} is missing, but {self._wal.name} with its latest changes is there; "
                f"put the journal back, or move {self._wal.name} away"
            )

    def _prepare(self) -> None:
        # EXCLUSIVE comes before WAL: then there is no shared memory file, a second opener is
        # refused, and SQLite's WAL-reset corruption, which needs two connections, is out of reach.
        # Waiting for the lock is useless: a process that holds it does so until it ends.
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
                # A full disk may have rolled the transaction back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except apsw.ConstraintError:
            # A violated constraint is a bug, not a fault of the disk.
            raise
        except (apsw.FullError, apsw.IOError) as error:
            if not self._is_full(error):
                raise JournalError(f"{self._path}: {error}") from error
            raise JournalFullError(
                f"no room to write {self._path}, or it is read-only now"
            ) from error
        # The last two come from a row that this server has not written.
        except (apsw.CorruptError, apsw.NotADBError, msgspec.MsgspecError, ValueError) as error:
            raise UnfitJournalError(
                f"{self._path} is damaged ({error}); put a backup in its place, "
                "or move it away; the next start then says what becomes of the videos"
            ) from error
        except apsw.BusyError as error:
            raise StateDirInUseError(f"another process uses {self._path}") from error
        except apsw.Error as error:
            raise JournalError(f"{self._path}: {error}") from error

    def _is_full(self, error: apsw.Error) -> bool:
        if isinstance(error, apsw.FullError):
            return True
        # SQLite reports all but a full disk as an I/O error. A failed write has not happened; a
        # failed sync is never trusted.
        code = getattr(error, "extendedresult", None)
        return code == apsw.SQLITE_IOERR_WRITE and self._connection.system_errno in REFUSED_WRITES
