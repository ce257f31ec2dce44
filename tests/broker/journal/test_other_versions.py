"""A journal that another version has written: what cannot be read fails alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from broker.dispatch.commands import SaveKept, SaveModel
from broker.dispatch.job_record import Job
from broker.journal.journal import Journal
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from tests.broker.driver import IMAGE, SPEC

IDS = [letter * 32 for letter in "abcd"]
Document = dict[str, Any]


def job(number: int, state: JobState, **changes: Any) -> Job:
    return Job(
        number=number, job_id=IDS[number - 1], spec=SPEC, image=IMAGE, created_at=1.0,
        updated_at=2.0, state=state, owner="ann", **changes,
    )  # fmt: skip


def written(path: Path) -> None:
    """Write a journal with jobs that wait, run and have ended, and a model."""
    lease = Lease(group="g0", epoch=1, job_id=IDS[1], attempt=1)
    jobs = [
        job(1, JobState.IN_QUEUE, callback_url="http://a.example/"),
        job(2, JobState.IN_PROGRESS, lease=lease, attempt=1),
        job(3, JobState.SUCCEED, video=f"{IDS[2]}.mp4"),
        job(4, JobState.IN_QUEUE),
    ]
    journal = Journal(path)
    journal.write(jobs, changes=[SaveModel(ModelProfile())])
    journal.close()


def rewrite(path: Path, table: str, number: int, change: Callable[[Document], object]) -> None:
    """Change a document behind the server's back, as another version would have written it."""
    connection = apsw.Connection(str(path))
    connection.execute("DROP TRIGGER IF EXISTS the_end_is_final")
    (found,) = connection.execute(f"SELECT document FROM {table} WHERE number = ?", (number,))
    document = json.loads(str(found[0]))
    change(document)
    connection.execute(
        f"UPDATE {table} SET document = ? WHERE number = ?", (json.dumps(document), number)
    )
    connection.close()


CHANGES: dict[str, Callable[[Document], object]] = {
    "glow": lambda document: document.update(glow=1),
    "halo": lambda document: document["spec"].update(halo=True),
    "sample_solver": lambda document: document["spec"].update(sample_solver="magic"),
    "image_size": lambda document: document["spec"].update(image_size="9600*9600"),
    "warning": lambda document: document.update(warning="too_blue"),
    "prompt": lambda document: document["spec"].pop("prompt"),
    "spec": lambda document: document.update(spec=None),
}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", CHANGES)
def test_a_job_that_has_not_ended_fails_alone(tmp_path: Path, name: str, number: int) -> None:
    path = tmp_path / "jobs.sqlite3"
    written(path)
    rewrite(path, "jobs", number, CHANGES[name])
    for _ in range(2):  # the second start finds the failure in the journal
        journal = Journal(path)
        jobs = journal.load()
        journal.close()
        failed = jobs[number - 1]
        assert (failed.state, failed.error_code) == (JobState.FAILED, ErrorCode.OTHER_VERSION)
        assert (failed.job_id, failed.owner, failed.lease) == (IDS[number - 1], "ann", None)
        assert failed.reason is not None
        assert "made by another version of this server" in failed.reason
        assert "damaged" not in failed.reason
        assert name in failed.reason or name == "spec"
        assert jobs[3] == job(4, JobState.IN_QUEUE)


@pytest.mark.parametrize("name", CHANGES)
def test_an_ended_job_keeps_its_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / "jobs.sqlite3"
    written(path)
    rewrite(path, "jobs", 3, CHANGES[name])
    journal = Journal(path)
    ended = journal.load()[2]
    journal.close()
    assert (ended.state, ended.video) == (JobState.SUCCEED, f"{IDS[2]}.mp4")


def test_a_callback_tells_of_the_failure(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    written(path)
    rewrite(path, "jobs", 1, CHANGES["glow"])
    journal = Journal(path)
    journal.load()
    callback = journal.take_callback(10.0)
    journal.close()
    assert callback is not None
    assert (callback.job_id, callback.state) == (IDS[0], JobState.FAILED)


def test_a_model_of_another_version_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    written(path)
    rewrite(path, "models", 1, lambda document: document.update(colour="blue"))
    journal = Journal(path)
    assert journal.load_models() == []
    journal.close()


def test_an_earlier_version_opens_the_journal_of_this_one(tmp_path: Path) -> None:
    """It ignores which videos are kept, and its cleaning leaves no mark behind."""
    path = tmp_path / "jobs.sqlite3"
    written(path)
    journal = Journal(path)
    journal.write([], changes=[SaveKept(3, None), SaveKept(4, 5.0)])
    assert journal.load_kept() == {3: None, 4: 5.0}
    journal.close()
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == 8
    connection.pragma("foreign_keys", 1)
    connection.execute("DELETE FROM jobs WHERE number = 3")  # as its cleaning does
    connection.close()
    journal = Journal(path)
    assert journal.load_kept() == {4: 5.0}
    journal.close()
