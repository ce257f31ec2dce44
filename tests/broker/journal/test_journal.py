"""The journal: durable writes, refused contradictions, migrations, damage and backups."""

import os
import random
import shutil
import sqlite3
from pathlib import Path

import apsw
import msgspec
import pytest

from broker.dispatch.commands import DropModel, SaveModel
from broker.dispatch.job_record import Job
from broker.errors import JournalError, JournalFullError, StateDirInUseError
from broker.journal import tables as schema
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.journal.tables import SCHEMA_VERSION
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.job import JobState
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.requests import IdempotencyKey
from tests.broker.driver import IMAGE, SPEC

DATA = Path(__file__).parents[2] / "data"


def job(number: int = 1) -> Job:
    job_id = f"{number:032x}"
    return Job(
        number=number, job_id=job_id, spec=SPEC, image=IMAGE, created_at=10.0, updated_at=10.0
    )


def leased(waiting: Job) -> Job:
    lease = Lease(group="a", epoch=3, job_id=waiting.job_id, attempt=waiting.attempt + 1)
    return waiting.leased(lease, "hash", 20.0)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query on a closed journal."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


def test_jobs_are_loaded_unchanged_in_order_of_submission(path: Path) -> None:
    jobs = [
        leased(job(1)),
        job(2),
        leased(job(3)).ended(
            JobState.SUCCEED,
            30.0,
            progress=1.0,
            video="x.mp4",
            warning=ResultWarning.SINGLE_COLOUR,
        ),
        leased(job(4)).ended(
            JobState.FAILED, 30.0, error_code=ErrorCode.OUT_OF_MEMORY, reason="too large"
        ),
        job(5).ended(JobState.CANCELLED, 30.0),
    ]
    journal = Journal(path)
    journal.write(list(reversed(jobs)))
    journal.close()
    assert Journal(path).load() == jobs


def test_every_setting_that_durability_depends_on_is_in_force(path: Path) -> None:
    connection = Journal(path)._connection
    found = {
        name: connection.pragma(name)
        for name in (
            "locking_mode",
            "journal_mode",
            "synchronous",
            "foreign_keys",
            "trusted_schema",
            "mmap_size",
            "wal_autocheckpoint",
            "cell_size_check",
        )
    }
    assert found == {
        "locking_mode": "exclusive",
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "mmap_size": 0,
        "wal_autocheckpoint": 1000,
        "cell_size_check": 1,
    }
    assert not path.with_name("jobs.sqlite3-shm").exists()


@pytest.mark.parametrize("end", [JobState.SUCCEED, JobState.FAILED, JobState.CANCELLED])
def test_the_database_refuses_any_change_of_a_finished_job(path: Path, end: JobState) -> None:
    journal = Journal(path)
    video = "x.mp4" if end is JobState.SUCCEED else None
    ended = leased(job()).ended(end, 30.0, video=video)
    journal.write([ended])
    with pytest.raises(apsw.ConstraintError, match="a finished job does not change"):
        journal._connection.execute(
            "UPDATE jobs SET document = json_set(document, '$.state', 'InQueue', '$.video', null)"
        )
    with pytest.raises(apsw.ConstraintError, match="a finished job does not change"):
        journal.write([job(2), ended])
    assert journal.load() == [ended]


def test_a_transaction_is_written_as_a_whole_or_not_at_all(path: Path) -> None:
    journal = Journal(path)
    bad = msgspec.structs.replace(job(2), progress=2.0)
    with pytest.raises(apsw.ConstraintError):
        journal.write([job(1), bad])
    assert journal.load() == []


def test_the_database_writes_the_history_and_refuses_to_rewrite_it(path: Path) -> None:
    journal = Journal(path)
    first = leased(job())
    again = leased(first.queued_again(25.0, first.attempt))
    for version in (
        job(),
        first,
        first.queued_again(25.0, first.attempt),
        again,
        again.ended(JobState.SUCCEED, 30.0, video="x.mp4"),
    ):
        journal.write([version])
    with pytest.raises(apsw.ConstraintError, match="history does not change"):
        journal._connection.execute("UPDATE history SET at = 0")
    journal.close()
    assert rows(path, "SELECT state, attempt, epoch, at FROM history ORDER BY entry") == [
        ("InQueue", 0, None, 10.0),
        ("InProgress", 1, 3, 20.0),
        ("InQueue", 1, None, 25.0),
        ("InProgress", 2, 3, 20.0),
        ("Succeed", 2, None, 30.0),
    ]


def test_the_history_of_a_removed_job_is_kept_for_a_week(path: Path) -> None:
    journal = Journal(path)
    journal.write([job(1), job(2)])
    journal.write([], [job(1).job_id])
    assert journal.load() == [job(2)]
    journal.prune(10.0)
    assert len(journal._connection.execute("SELECT * FROM history").fetchall()) == 2
    journal.prune(10.0 + 8 * 86_400)
    assert journal._connection.execute("SELECT * FROM history").fetchall() == []


def test_a_full_disk_changes_nothing_and_later_writes_succeed(path: Path) -> None:
    journal = Journal(path)
    journal.write([job(1)])
    journal._connection.pragma("max_page_count", journal._connection.pragma("page_count"))
    many = [job(number) for number in range(2, 200)]
    with pytest.raises(JournalFullError, match=r"no room to write .*jobs\.sqlite3"):
        journal.write(many)
    assert journal.load() == [job(1)]
    journal._connection.pragma("max_page_count", 100_000)
    journal.write(many)
    assert len(journal.load()) == 199


def test_other_users_cannot_read_the_files_of_an_open_state_directory(tmp_path: Path) -> None:
    """They hold prompts and callback URLs; journals of earlier versions may be open to all."""
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        state_dir = StateDir(tmp_path)
        journal = Journal(state_dir.journal)
        journal.write([job()])
        assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}
        journal.close()
        state_dir.journal.chmod(0o644)
        Journal(state_dir.journal).close()
        assert state_dir.journal.stat().st_mode & 0o777 == 0o600
        state_dir.close()
    finally:
        os.umask(before)


def test_a_second_opener_is_refused(path: Path) -> None:
    journal = Journal(path)
    journal.write([job()])
    with pytest.raises(StateDirInUseError, match="another process uses"):
        Journal(path)


def test_a_journal_of_a_later_version_is_refused_and_not_changed(path: Path) -> None:
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(
        JournalError, match=f"has schema {SCHEMA_VERSION + 1}, this version knows up to"
    ):
        Journal(path)
    assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION + 1,)]


@pytest.mark.parametrize("version", range(1, 7))
def test_a_journal_of_an_earlier_version_is_migrated(path: Path, version: int) -> None:
    old = apsw.Connection(str(path))
    for migration in schema._MIGRATIONS[:version]:
        old.execute(migration)
    old.pragma("user_version", version)
    old.execute(
        "INSERT INTO jobs (number, job_id, spec, image, state, attempt, seq, progress, created_at,"
        " updated_at) VALUES (1, ?, ?, ?, 'InQueue', 0, 1, 0.0, 10.0, 10.0)",
        (job().job_id, msgspec.json.encode(SPEC).decode(), IMAGE),
    )
    old.close()
    journal = Journal(path)
    assert journal.load() == [job()]
    journal.write([leased(job())])
    assert journal._connection.pragma("user_version") == SCHEMA_VERSION


def test_models_are_kept_in_the_order_in_which_they_became_known(path: Path) -> None:
    journal = Journal(path)
    cat, dog = ModelProfile(name="cat"), ModelProfile(name="dog", content_hash="1")
    journal.write([], changes=[SaveModel(dog), SaveModel(cat)])
    changed = msgspec.structs.replace(dog, content_hash="2")
    journal.write([], changes=[SaveModel(changed)])
    assert journal.load_models() == [changed, cat]
    journal.write([], changes=[DropModel("dog")])
    journal.close()
    assert Journal(path).load_models() == [cat]


def test_every_kind_of_job_survives_the_migration_to_documents(path: Path) -> None:
    """The file comes from the last version that kept jobs in columns."""
    shutil.copy(DATA / "journal-schema-6.sqlite3", path)
    journal = Journal(path)
    waiting, running, done, failed, cancelled, again = journal.load()
    assert waiting.idempotency_key == IdempotencyKey(key="one", request_hash="0" * 64)
    assert (waiting.owner, waiting.priority, waiting.spec.seed) == ("ann", 2, 7)
    lease = Lease(group="g0", epoch=3, job_id=running.job_id, attempt=1)
    assert (running.state, running.lease) == (JobState.IN_PROGRESS, lease)
    assert running.callback_url == "https://example.com/hook"
    assert (done.state, done.video) == (JobState.SUCCEED, f"{done.job_id}.mp4")
    assert done.stage_s == {"queue": 1.5, "denoise": 7.25}
    assert (failed.error_code, failed.reason) == (ErrorCode.OUT_OF_MEMORY, "zu groß")
    assert (cancelled.state, cancelled.updated_at) == (JobState.CANCELLED, 62.0)
    assert (again.state, again.attempt, again.num_lost) == (JobState.IN_QUEUE, 1, 1)
    states = "SELECT count(*) FROM history WHERE state = 'InQueue'"
    assert journal._connection.execute(states).fetchone() == (7,)
    journal.write([running.ended(JobState.CANCELLED, 70.0)])
    callback = journal.take_callback(70.0)
    assert callback is not None
    assert (callback.job_id, callback.url) == (running.job_id, running.callback_url)


def test_the_database_refuses_a_document_that_contradicts_itself(path: Path) -> None:
    journal = Journal(path)
    for changes in ({"state": JobState.IN_PROGRESS}, {"video": "x.mp4"}, {"progress": 1.5}):
        with pytest.raises(apsw.ConstraintError):
            journal.write([msgspec.structs.replace(job(), **changes)])
    assert journal.load() == []


def test_the_migration_counts_attempts_that_were_lost_before(path: Path) -> None:
    old = apsw.Connection(str(path))
    for migration in schema._MIGRATIONS[:5]:
        old.execute(migration)
    old.pragma("user_version", 5)
    for number, state, group in ((1, "InQueue", None), (2, "InProgress", "a"), (3, "Failed", None)):
        old.execute(
            "INSERT INTO jobs (number, job_id, spec, image, state, attempt, group_name, epoch, seq,"
            " progress, created_at, updated_at) VALUES (?, ?, ?, ?, ?, 2, ?, ?, 1, 0.0, 1.0, 1.0)",
            (
                number,
                str(number),
                msgspec.json.encode(SPEC).decode(),
                IMAGE,
                state,
                group,
                group and 1,
            ),
        )
    old.close()
    assert [job.num_lost for job in Journal(path).load()] == [2, 1, 0]


def test_a_failed_migration_leaves_the_journal_unchanged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path)
    journal.write([job()])
    journal.close()
    broken = "ALTER TABLE jobs ADD COLUMN half TEXT; ALTER TABLE missing ADD COLUMN x TEXT;"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, broken))
        patch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        with pytest.raises(JournalError, match="no such table: missing"):
            Journal(path)
    assert Journal(path).load() == [job()]
    assert all(row[1] != "half" for row in rows(path, "PRAGMA table_info(jobs)"))


def test_the_database_refuses_two_jobs_with_one_idempotency_key(path: Path) -> None:
    key = IdempotencyKey(key="a", request_hash="0" * 64)
    keyed = [msgspec.structs.replace(job(number), idempotency_key=key) for number in (1, 2)]
    journal = Journal(path)
    with pytest.raises(apsw.ConstraintError, match="one_job_for_a_key"):
        journal.write(keyed)


def test_a_file_that_is_not_a_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"this was never a database" * 200)
    with pytest.raises(JournalError, match="not a database"):
        Journal(path)


def test_a_damaged_journal_is_refused(path: Path) -> None:
    journal = Journal(path)
    journal.write([job(number) for number in range(1, 400)])
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 4096 + whole[len(whole) // 2 + 4096 :])
    with pytest.raises(JournalError, match=r"jobs\.sqlite3"):
        Journal(path)


def test_any_damage_is_harmless_or_raises_a_journal_error(path: Path) -> None:
    """A row with damaged text is an error message for the operator, not a traceback."""
    journal = Journal(path)
    jobs = [job(number) for number in range(1, 60)]
    journal.write(jobs)
    journal.close()
    whole = path.read_bytes()
    refusals = []
    for seed in range(300):
        path.write_bytes(damaged(whole, random.Random(seed)))
        try:
            opened = Journal(path)
            try:
                opened.load()
            finally:
                opened.close()
        except JournalError as error:
            refusals.append(str(error))
    assert 10 < len(refusals) < 290
    assert all(str(path) in refusal for refusal in refusals)


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Return the content with a few bytes changed, and sometimes a sector of zeros."""
    content = bytearray(whole)
    if rng.random() < 0.1:
        start = rng.randrange(len(content)) // 512 * 512
        content[start : start + 512] = bytes(512)
    for _ in range(rng.randint(1, 3)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def test_a_backup_is_a_complete_journal(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    journal.write([job(1), job(2)])
    journal.backup(tmp_path / "copy.sqlite3")
    assert Journal(tmp_path / "copy.sqlite3").load() == [job(1), job(2)]
