"""The journal's tables, and the migration of earlier versions."""

from pathlib import Path

import apsw

from broker.errors import UnfitJournalError

# Each migration leads from the version of its index to the next one. Triggers write the history,
# so that no code path can change a job without a record.
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
    """
    ALTER TABLE jobs ADD COLUMN idempotency_key TEXT;
    ALTER TABLE jobs ADD COLUMN request_hash TEXT
        CHECK ((request_hash IS NULL) = (idempotency_key IS NULL));
    CREATE UNIQUE INDEX one_job_for_a_key ON jobs (idempotency_key);
    """,
    """
    ALTER TABLE jobs ADD COLUMN owner TEXT;
    DROP INDEX one_job_for_a_key;
    CREATE UNIQUE INDEX one_job_for_a_key ON jobs (ifnull(owner, ''), idempotency_key);
    """,
    "ALTER TABLE jobs ADD COLUMN stage_s TEXT NOT NULL DEFAULT '{}';",
    # A row lives until the callback is made or given up, even if the job is removed.
    """
    ALTER TABLE jobs ADD COLUMN callback_url TEXT;

    CREATE TABLE callbacks (
        job_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        owner TEXT,
        state TEXT NOT NULL,
        ended_at REAL NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        due_at REAL NOT NULL
    ) STRICT;

    CREATE TRIGGER callback_at_the_end AFTER UPDATE ON jobs
    WHEN NEW.callback_url IS NOT NULL AND NEW.state IN ('Succeed', 'Failed', 'Cancelled')
    BEGIN
        INSERT INTO callbacks (job_id, url, owner, state, ended_at, due_at) VALUES
            (NEW.job_id, NEW.callback_url, NEW.owner, NEW.state, NEW.updated_at, NEW.updated_at);
    END;
    """,
    # Earlier, an attempt that ended as planned gave its number back.
    """
    ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0
        CHECK (priority BETWEEN -10 AND 10);
    ALTER TABLE jobs ADD COLUMN num_lost INTEGER NOT NULL DEFAULT 0 CHECK (num_lost >= 0);
    UPDATE jobs SET num_lost = attempt - (state = 'InProgress')
        WHERE state IN ('InQueue', 'InProgress');
    """,
    # A job is one document. What constraints, indexes and triggers need is taken from it.
    """
    CREATE TABLE documents (
        number INTEGER PRIMARY KEY,
        document TEXT NOT NULL,
        job_id TEXT NOT NULL AS (document ->> '$.job_id') UNIQUE,
        state TEXT NOT NULL AS (document ->> '$.state')
            CHECK (state IN ('InQueue', 'InProgress', 'Succeed', 'Failed', 'Cancelled')),
        attempt INTEGER NOT NULL AS (document ->> '$.attempt') CHECK (attempt >= 0),
        group_name TEXT AS (document ->> '$.lease.group'),
        epoch INTEGER AS (document ->> '$.lease.epoch'),
        video TEXT AS (document ->> '$.video'),
        progress REAL NOT NULL AS (document ->> '$.progress')
            CHECK (progress BETWEEN 0 AND 1),
        priority INTEGER NOT NULL AS (document ->> '$.priority')
            CHECK (priority BETWEEN -10 AND 10),
        updated_at REAL NOT NULL AS (document ->> '$.updated_at'),
        owner TEXT AS (document ->> '$.owner'),
        idempotency_key TEXT AS (document ->> '$.idempotency_key.key'),
        callback_url TEXT AS (document ->> '$.callback_url'),
        CHECK ((state = 'InProgress') = (group_name IS NOT NULL AND epoch IS NOT NULL)),
        CHECK ((state = 'Succeed') = (video IS NOT NULL))
    ) STRICT;

    INSERT INTO documents (number, document)
    SELECT number, json_object(
        'number', number, 'job_id', job_id, 'spec', json(spec), 'image', image, 'state', state,
        'attempt', attempt, 'num_lost', num_lost, 'seq', seq, 'progress', progress,
        'reason', reason, 'error_code', error_code, 'video', video, 'created_at', created_at,
        'updated_at', updated_at, 'owner', owner, 'stage_s', json(stage_s),
        'callback_url', callback_url, 'priority', priority,
        'lease', json(iif(group_name IS NULL, 'null', json_object(
            'group', group_name, 'epoch', epoch, 'job_id', job_id, 'attempt', attempt))),
        'idempotency_key', json(iif(idempotency_key IS NULL, 'null', json_object(
            'key', idempotency_key, 'request_hash', request_hash))))
    FROM jobs;

    DROP TABLE jobs;
    ALTER TABLE documents RENAME TO jobs;
    CREATE UNIQUE INDEX one_job_for_a_key ON jobs (ifnull(owner, ''), idempotency_key);

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

    CREATE TRIGGER callback_at_the_end AFTER UPDATE ON jobs
    WHEN NEW.callback_url IS NOT NULL AND NEW.state IN ('Succeed', 'Failed', 'Cancelled')
    BEGIN
        INSERT INTO callbacks (job_id, url, owner, state, ended_at, due_at) VALUES
            (NEW.job_id, NEW.callback_url, NEW.owner, NEW.state, NEW.updated_at, NEW.updated_at);
    END;
    """,
    # A model's profile is one document, too.
    """
    CREATE TABLE models (
        number INTEGER PRIMARY KEY,
        document TEXT NOT NULL,
        name TEXT NOT NULL AS (document ->> '$.name') UNIQUE
    ) STRICT;
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)

# Tables that earlier versions need not know: they ignore them, and open the journal. A finished job
# does not change, so what is kept is written beside it.
_ADDITIONS = """
    CREATE TABLE IF NOT EXISTS kept (
        number INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
        let_go_at REAL
    ) STRICT;
"""


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the open journal to the present schema, in one transaction.

    Raises:
        UnfitJournalError: If it was written by a later version.
    """
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise UnfitJournalError(
            f"{path} has schema {version}, this version knows up to {SCHEMA_VERSION}; "
            "it was written by a later version; start that version, or put back the backup made "
            "before the upgrade"
        )
    if version < SCHEMA_VERSION:
        with connection:
            connection.execute("".join(_MIGRATIONS[version:]))
            connection.pragma("user_version", SCHEMA_VERSION)
    connection.execute(_ADDITIONS)
