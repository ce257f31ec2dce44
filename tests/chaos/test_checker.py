"""The checker finds each kind of broken promise, in evidence made up here."""

from collections.abc import Callable

import pytest

from tests.chaos.checker import Evidence, Move, violations
from tests.chaos.client import Witness
from tests.chaos.ledger import Entry, What
from tests.chaos.stub_leader import video_of

JOB = "0" * 32


def entry(what: What, at_s: float, attempt: int, survivors: tuple[int, ...] = ()) -> Entry:
    return Entry(
        what=what, at_s=at_s, group="g0", epoch=attempt, job_id=JOB, attempt=attempt,
        survivors=[*survivors],
    )  # fmt: skip


def sound() -> Evidence:
    """A job whose first attempt was lost, and which succeeded in the second."""
    return Evidence(
        states={JOB: "Succeed"},
        num_lost={JOB: 1},
        moves={
            JOB: [
                Move("InQueue", 0, None, None),
                Move("InProgress", 1, "g0", 1),
                Move("InQueue", 1, None, None),
                Move("InProgress", 2, "g0", 2),
                Move("Succeed", 2, None, None),
            ]
        },
        ledger=[entry("started", 1, 1), entry("worked", 2, 1), entry("started", 3, 2)],
        witness=Witness(accepted=[JOB]),
        videos={f"{JOB}.mp4": video_of(JOB)},
    )


def test_a_sound_history_has_no_violation() -> None:
    assert violations(sound()) == []


def lose(evidence: Evidence) -> None:
    evidence.witness.accepted.append("1" * 32)


def end_twice(evidence: Evidence) -> None:
    evidence.moves[JOB].append(Move("Failed", 2, None, None))


def go_on_after_the_end(evidence: Evidence) -> None:
    evidence.moves[JOB].append(Move("InQueue", 2, None, None))


def take_back(evidence: Evidence) -> None:
    evidence.witness.ended[JOB] = "Failed"


def try_four_times(evidence: Evidence) -> None:
    evidence.num_lost[JOB] = 4


def lease_twice(evidence: Evidence) -> None:
    evidence.moves[JOB].insert(4, Move("InProgress", 2, "g1", 2))


def overlap(evidence: Evidence) -> None:
    evidence.ledger.append(entry("worked", 4, 1))


def survive(evidence: Evidence) -> None:
    evidence.ledger[2] = entry("started", 3, 2, survivors=(7,))


def run_unasked(evidence: Evidence) -> None:
    evidence.ledger.append(entry("started", 5, 3))


def undo_a_cancel(evidence: Evidence) -> None:
    evidence.witness.cancelled.append(JOB)


def cut_the_video(evidence: Evidence) -> None:
    evidence.videos[f"{JOB}.mp4"] = video_of(JOB)[:-1]


def leave_a_stray_video(evidence: Evidence) -> None:
    evidence.videos["half.mp4"] = b""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, "was accepted and is lost"),
        (end_twice, "has 2 ends"),
        (go_on_after_the_end, "has moved on after its end"),
        (take_back, "ended as Failed, now it is Succeed"),
        (try_four_times, "was tried again after 3 lost attempts"),
        (lease_twice, "was started twice with one attempt number"),
        (overlap, "attempt 1 continued during 2"),
        (survive, "ranks of a lost attempt survive during attempt 2"),
        (run_unasked, "was run without a lease in the journal"),
        (undo_a_cancel, "was cancelled and is Succeed"),
        (cut_the_video, "has succeeded without its whole video"),
        (leave_a_stray_video, "half.mp4 can be downloaded"),
    ],
)
def test_each_broken_promise_is_found(spoil: Callable[[Evidence], None], message: str) -> None:
    evidence = sound()
    spoil(evidence)
    (violation,) = violations(evidence)
    assert message in violation
