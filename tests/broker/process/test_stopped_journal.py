"""The journal of a stopped server is checked and copied without changing it."""

from pathlib import Path

import apsw
import pytest

from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.process.stopped_journal import JOURNAL, check_journal, copy_journal, is_in_use
from broker.wire.job import JobState
from tests.broker.journal.test_other_versions import CHANGES, IDS, rewrite, written


def test_a_copy_holds_every_job_and_the_journal_stays_as_it_is(tmp_path: Path) -> None:
    written(tmp_path / JOURNAL)
    rewrite(tmp_path / JOURNAL, "jobs", 1, CHANGES["glow"])
    report = copy_journal(tmp_path, tmp_path / "copy")
    assert (report.num_jobs, report.unreadable, report.problem) == (4, (IDS[0],), None)
    assert report.num_bytes == (tmp_path / "copy").stat().st_size
    for name in (JOURNAL, "copy"):
        connection = apsw.Connection(str(tmp_path / name))
        states = [state for (state,) in connection.execute("SELECT state FROM jobs")]
        connection.close()
        assert states == ["InQueue", "InProgress", "Succeed", "InQueue"]
    journal = Journal(tmp_path / "copy")
    assert journal.load()[0].state is JobState.FAILED
    journal.close()
    assert "a backup does not overwrite files" in str(
        copy_journal(tmp_path, tmp_path / "copy").problem
    )


@pytest.mark.parametrize("fault", ["later", "damaged", "missing"])
def test_what_is_wrong_with_a_journal_is_told(tmp_path: Path, fault: str) -> None:
    path = tmp_path / JOURNAL
    if fault != "missing":
        written(path)
    if fault == "damaged":
        path.write_bytes(b"SQLite format 3\0" + b"x" * 8192)
    if fault == "later":
        connection = apsw.Connection(str(path))
        connection.pragma("user_version", 99)
        connection.close()
    problem = check_journal(tmp_path).problem
    expected = {
        "later": "it was written by a later version",
        "damaged": "cannot be read: ",
        "missing": "is missing",
    }
    assert expected[fault] in str(problem)
    assert fault == "damaged" or "damaged" not in str(problem)


def test_a_journal_that_a_broker_holds_is_in_use(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    state_dir = StateDir(tmp_path)
    assert is_in_use(tmp_path)
    state_dir.close()
    assert not is_in_use(tmp_path)
