"""The journal: the one durable state of the server, an SQLite file of jobs and their history."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from broker.errors import JournalError, JournalFullError
from broker.job import JobSpec, JobState
from broker.protocol import ErrorCode, Lease
from broker.record import Job

_HISTORY_KEPT_S = 7 * 86_400.0

# A migration brings a journal from the version of its index to the next one. The history is
# written by triggers, so that no code path can change a job and forget to tell.
_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
        spec TEXT NOT NULL,
        image TEXT NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('InQueue', 'InProgress', 'Succeed', 'Failed', 'Cancelled')),
        attempt INTEGER NOT NULL CHECK (attempt >= 0),
        group_name TEXT,
        epoch INTEGER,
        seq INTEGER NOT NULL,
        progress REAL NOT NULL CHECK (progress BETWEEN 0 AND 1),
        reason TEXT,
        error_code TEXT,
        video TEXT,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        CHECK ((state = 'InProgress') = (group_name IS NOT NULL AND epoch IS NOT NULL)),
        CHECK ((state = 'Succeed') = (video IS NOT NULL))
    ) STRICT;

    CREATE TABLE history (
        entry INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,
        group_name TEXT,
        epoch INTEGER,
        at REAL NOT NULL
    ) STRICT;

    CREATE TRIGGER the_end_is_final BEFORE UPDATE ON jobs
    WHEN OLD.state IN ('Succeed', 'Failed', 'Cancelled')
    BEGIN
        SELECT RAISE(ABORT, 'a finished job does not change');
    END;

    CREATE TRIGGER history_of_new AFTER INSERT ON jobs
    BEGIN
        INSERT INTO history (job_id, attempt, state, group_name, epoch, at) VALUES
            (NEW.job_id, NEW.attempt, NEW.state, NEW.group_name, NEW.epoch, NEW.updated_at);
    END;

    CREATE TRIGGER history_of_moves AFTER UPDATE ON jobs
    WHEN OLD.state != NEW.state OR OLD.attempt != NEW.attempt
    BEGIN
        INSERT INTO history (job_id, attempt, state, group_name, epoch, at) VALUES
            (NEW.job_id, NEW.attempt, NEW.state, NEW.group_name, NEW.epoch, NEW.updated_at);
    END;

    CREATE TRIGGER history_is_not_rewritten BEFORE UPDATE ON history
    BEGIN
        SELECT RAISE(ABORT, 'history does not change');
    END;
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)

_COLUMNS = (
    "number, job_id, spec, image, state, attempt, group_name, epoch, seq, progress, reason, "
    "error_code, video, created_at, updated_at"
)
_SAVE = f"""
    INSERT INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (job_id) DO UPDATE SET
        state = excluded.state, attempt = excluded.attempt, group_name = excluded.group_name,
        epoch = excluded.epoch, seq = excluded.seq, progress = excluded.progress,
        reason = excluded.reason, error_code = excluded.error_code, video = excluded.video,
        updated_at = excluded.updated_at
"""


class Journal:
    """The open journal: one connection, used by one thread at a time.

    Raises:
        JournalError: If the file is damaged, in use, or of a later version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated():
            # Nobody to wait for: whoever holds the file holds it until it ends.
            self._connection = sqlite3.connect(
                path, timeout=0.0, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
                self._migrate()
            except BaseException:
                self._connection.close()
                raise

    def load(self) -> list[Job]:
        """Return every job, the earliest submission first."""
        with self._translated():
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY number")
            return [_job_of(row) for row in rows]

    def write(self, saved: Sequence[Job], dropped: Sequence[str] = ()) -> None:
        """Write jobs and remove others in one transaction that is on disk on return.

        Raises:
            JournalFullError: If there is no room; nothing has changed then.
            JournalError: If the disk or the file cannot be trusted any more.
        """
        with self._transaction():
            self._connection.executemany(_SAVE, [_row_of(job) for job in saved])
            self._connection.executemany(
                "DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in dropped]
            )

    def forget_history(self, now_s: float) -> None:
        """Remove the history that nobody will ask for any more."""
        with self._transaction():
            self._connection.execute("DELETE FROM history WHERE at < ?", (now_s - _HISTORY_KEPT_S,))

    def backup(self, path: Path) -> None:
        """Write a consistent copy to a file that does not exist yet."""
        with self._translated():
            self._connection.execute("VACUUM INTO ?", (str(path),))

    def close(self) -> None:
        """Close the file; what was written is on disk already."""
        self._connection.close()

    def _prepare(self) -> None:
        # EXCLUSIVE comes before WAL: then there is no shared memory file, a second opener is
        # refused, and SQLite's WAL-reset corruption, which needs two connections, is out of reach.
        self._expect("PRAGMA locking_mode=EXCLUSIVE", "exclusive")
        self._expect("PRAGMA journal_mode=WAL", "wal")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._expect("PRAGMA synchronous", 2)
        for setting in (
            "busy_timeout=5000",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "mmap_size=0",
            "wal_autocheckpoint=1000",
            "cell_size_check=ON",
        ):
            self._connection.execute(f"PRAGMA {setting}")
        self._expect("PRAGMA quick_check", "ok")

    def _expect(self, pragma: str, expected: object) -> None:
        found = self._connection.execute(pragma).fetchone()[0]
        if found != expected:
            raise JournalError(f"{self._path}: {pragma} answered {found!r}, not {expected!r}")

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self._path} has schema {version}, this program knows {SCHEMA_VERSION}; "
                "it was written by a later version"
            )
        if version == SCHEMA_VERSION:
            return
        script = "".join(_MIGRATIONS[version:])
        # executescript runs its own statements, the transaction's bounds included.
        self._connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )

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
        except sqlite3.DatabaseError as error:
            # A broken rule of the schema is our own fault, not the disk's: let it show as it is.
            if isinstance(error, sqlite3.IntegrityError):
                raise
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise JournalFullError(f"no room to write {self._path}") from error
            raise JournalError(f"{self._path}: {error}") from error


def _row_of(job: Job) -> tuple[Any, ...]:
    return (
        job.number,
        job.job_id,
        msgspec.json.encode(job.spec).decode(),
        job.image,
        job.state.value,
        job.attempt,
        job.lease.group if job.lease else None,
        job.lease.epoch if job.lease else None,
        job.seq,
        job.progress,
        job.reason,
        job.error_code.value if job.error_code else None,
        job.video,
        job.created_at,
        job.updated_at,
    )


def _job_of(row: Iterable[Any]) -> Job:
    (
        number, job_id, spec, image, state, attempt, group, epoch, seq, progress, reason,
        error_code, video, created_at, updated_at,
    ) = row  # fmt: skip
    lease = None
    if group is not None:
        lease = Lease(group=group, epoch=epoch, job_id=job_id, attempt=attempt)
    return Job(
        number=number,
        job_id=job_id,
        spec=msgspec.json.decode(spec, type=JobSpec),
        image=image,
        state=JobState(state),
        attempt=attempt,
        lease=lease,
        seq=seq,
        progress=progress,
        reason=reason,
        error_code=ErrorCode(error_code) if error_code else None,
        video=video,
        created_at=created_at,
        updated_at=updated_at,
    )
