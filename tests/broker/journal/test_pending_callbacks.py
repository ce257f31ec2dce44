"""Callbacks stay in the journal until they are received or given up."""

from pathlib import Path

import msgspec
import pytest

from broker.dispatch.job_record import Job
from broker.journal import pending_callbacks
from broker.journal.journal import Journal
from broker.journal.pending_callbacks import RETRY_AFTER_S
from broker.wire.job import JobState
from broker.wire.replies import Callback
from tests.broker.driver import IMAGE, SPEC

URL = "https://example.com/hook"
WAITING = Job(
    number=1,
    job_id="a" * 32,
    spec=SPEC,
    image=IMAGE,
    created_at=10.0,
    updated_at=10.0,
    owner="ann",
    callback_url=URL,
)
ENDED = WAITING.ended(JobState.CANCELLED, 20.0)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "jobs.sqlite3")
    journal.write([WAITING])
    return journal


def test_a_job_that_has_not_ended_has_no_callback_due(journal: Journal) -> None:
    assert journal.take_callback(1e9) is None
    assert journal.load() == [WAITING]


def test_a_callback_survives_the_removal_of_its_job_and_a_restart(
    journal: Journal, tmp_path: Path
) -> None:
    journal.write([ENDED], dropped=[ENDED.job_id])
    journal.close()
    taken = Journal(tmp_path / "jobs.sqlite3").take_callback(21.0)
    assert taken == Callback(
        job_id=ENDED.job_id,
        url=URL,
        owner="ann",
        state=JobState.CANCELLED,
        ended_at=20.0,
        tries=0,
        retry_after_s=RETRY_AFTER_S[0],
    )


def test_a_failing_callback_is_due_again_at_growing_intervals_and_then_given_up(
    journal: Journal,
) -> None:
    journal.write([ENDED])
    now_s = 20.0
    for delay_s in RETRY_AFTER_S:
        assert journal.take_callback(now_s) is not None
        assert journal.take_callback(now_s + delay_s - 0.1) is None
        now_s += delay_s
    last = journal.take_callback(now_s)
    assert last is not None
    assert last.tries == len(RETRY_AFTER_S)
    assert journal.take_callback(1e12) is None


def test_a_callback_that_was_received_is_removed(journal: Journal) -> None:
    journal.write([ENDED])
    assert journal.take_callback(20.0) is not None
    journal.end_callback(ENDED.job_id)
    assert journal.take_callback(1e12) is None


def test_a_job_without_a_callback_url_has_no_callback(journal: Journal) -> None:
    other = msgspec.structs.replace(WAITING, number=2, job_id="b" * 32, callback_url=None)
    journal.write([other])
    journal.write([other.ended(JobState.FAILED, 20.0)])
    assert journal.take_callback(1e12) is None


def end_jobs(journal: Journal, owner: str | None, *urls: str, at_s: float) -> list[str]:
    """End a job for each URL; return their ids."""
    numbers = range(len(journal.load()) + 1, len(journal.load()) + 1 + len(urls))
    jobs = [
        msgspec.structs.replace(
            WAITING, number=number, job_id=f"{number:032x}", owner=owner, callback_url=url
        )
        for number, url in zip(numbers, urls, strict=True)
    ]
    journal.write(jobs)
    journal.write([job.ended(JobState.CANCELLED, at_s) for job in jobs])
    return [job.job_id for job in jobs]


def test_a_callback_of_a_busy_owner_waits_and_the_next_ones_pass_it(journal: Journal) -> None:
    journal.write([ENDED])
    (other,) = end_jobs(journal, "bob", URL, at_s=30.0)
    taken = journal.take_callback(30.0, busy=("ann",))
    assert taken is not None
    assert taken.job_id == other
    assert journal.take_callback(30.0, busy=("ann",)) is None
    assert journal.take_callback(30.0) is not None


def test_without_api_keys_a_busy_receiver_does_not_delay_another(journal: Journal) -> None:
    _, other = end_jobs(journal, None, URL, "http://other.example:81/hook", at_s=20.0)
    taken = journal.take_callback(30.0, busy=("example.com",))
    assert taken is not None
    assert (taken.job_id, taken.party) == (other, "other.example:81")


def test_a_new_callback_goes_before_those_that_failed(journal: Journal) -> None:
    (failed,) = end_jobs(journal, "ann", URL, at_s=20.0)
    assert journal.take_callback(20.0) is not None
    (new,) = end_jobs(journal, "ann", URL, at_s=100.0)
    taken = [journal.take_callback(100.0) for _ in range(2)]
    assert [callback and callback.job_id for callback in taken] == [new, failed]


def test_the_callbacks_of_one_owner_are_limited(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that never answers must not fill the journal."""
    monkeypatch.setattr(pending_callbacks, "MAX_PENDING", 2)
    first, second, third = end_jobs(journal, "ann", URL, URL, URL, at_s=20.0)
    (other,) = end_jobs(journal, "bob", URL, at_s=21.0)
    assert journal.take_callback(20.0) is not None, "the first one has failed once"
    journal.prune(30.0)
    taken = [journal.take_callback(1e6 + number) for number in range(4)]
    assert [callback and callback.job_id for callback in taken] == [second, third, other, None]
    assert first
