"""The checker: what must hold for every history, whatever was killed in it.

It compares three sources: the journal, whose history is append-only and written by triggers; the
ranks' ledger; and the answers that clients received.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from broker.wire.job import JobState
from tests.chaos.client import Witness
from tests.chaos.ledger import Entry
from tests.chaos.stub_leader import video_of

MAX_LOST = 3
_TERMINAL = {state.value for state in JobState if state.is_terminal}


class Move(NamedTuple):
    """One row of the journal's history."""

    state: str
    attempt: int
    group: str | None
    epoch: int | None


class Evidence(NamedTuple):
    """Everything recorded about a server that has stopped."""

    states: dict[str, str]
    """State of each job in the journal."""
    num_lost: dict[str, int]
    """Lost attempts of each job."""
    moves: dict[str, list[Move]]
    """The journal's history of each job."""
    ledger: list[Entry]
    witness: Witness
    videos: dict[str, bytes]
    """Contents of the files that a client can download."""

    @classmethod
    def gather(cls, state_dir: Path, ledger: list[Entry], witness: Witness) -> "Evidence":
        """Read the journal and the videos of a server that has stopped."""
        moves: dict[str, list[Move]] = defaultdict(list)
        with closing(sqlite3.connect(state_dir / "jobs.sqlite3")) as journal:
            states = dict(journal.execute("SELECT job_id, state FROM jobs"))
            num_lost = dict(journal.execute("SELECT job_id, document ->> '$.num_lost' FROM jobs"))
            for job_id, *move in journal.execute(
                "SELECT job_id, state, attempt, group_name, epoch FROM history ORDER BY entry"
            ):
                moves[job_id].append(Move(*move))
        folder = state_dir / "videos"
        videos = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return cls(states, num_lost, moves, ledger, witness, videos)


def violations(evidence: Evidence) -> list[str]:
    """Return a sentence for each broken promise."""
    return [*violations_so_far(evidence), *_unended(evidence), *_videos(evidence)]


def violations_so_far(evidence: Evidence) -> list[str]:
    """The same for a server that was stopped while jobs waited or ran."""
    return [
        *_lost(evidence),
        *_ends(evidence),
        *_attempts(evidence),
        *_overlaps(evidence),
        *_cancels(evidence),
    ]


def _lost(evidence: Evidence) -> Iterator[str]:
    for job_id in evidence.witness.accepted:
        if job_id not in evidence.states:
            yield f"{job_id} was accepted and is lost"


def _ends(evidence: Evidence) -> Iterator[str]:
    for job_id, state in evidence.states.items():
        ends = [move.state for move in evidence.moves[job_id] if move.state in _TERMINAL]
        if len(ends) > 1:
            yield f"{job_id} has {len(ends)} ends"
        elif ends and (evidence.moves[job_id][-1].state != ends[0] or state != ends[0]):
            yield f"{job_id} has moved on after its end"
        if evidence.witness.ended.get(job_id, state) != state:
            yield f"{job_id} ended as {evidence.witness.ended[job_id]}, now it is {state}"


def _unended(evidence: Evidence) -> Iterator[str]:
    for job_id, moves in evidence.moves.items():
        if not any(move.state in _TERMINAL for move in moves):
            yield f"{job_id} has no end"


def _attempts(evidence: Evidence) -> Iterator[str]:
    for job_id, moves in evidence.moves.items():
        attempts = [move for move in moves if move.state == JobState.IN_PROGRESS.value]
        if evidence.num_lost.get(job_id, 0) > MAX_LOST:
            yield f"{job_id} was tried again after {MAX_LOST} lost attempts"
        if any(later.attempt <= earlier.attempt for earlier, later in pairwise(attempts)):
            yield f"{job_id} was started twice with one attempt number"


def _overlaps(evidence: Evidence) -> Iterator[str]:
    """Find attempts of a job that overlap, and attempts without a lease."""
    jobs: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.ledger:
        if entry.job_id:
            jobs[entry.job_id].append(entry)
    for job_id, entries in jobs.items():
        attempts = [entry for entry in entries if entry.what == "started"]
        for earlier, later in pairwise(attempts):
            if any(e.lease == earlier.lease and e.at_s > later.at_s for e in entries):
                yield f"{job_id}: attempt {earlier.attempt} continued during {later.attempt}"
        for attempt in attempts:
            if attempt.survivors:
                yield f"{job_id}: ranks of a lost attempt survive during attempt {attempt.attempt}"
        leases = {(move.group, move.epoch, move.attempt) for move in evidence.moves[job_id]}
        if not {attempt.lease for attempt in attempts} <= leases:
            yield f"{job_id} was run without a lease in the journal"


def _cancels(evidence: Evidence) -> Iterator[str]:
    for job_id in evidence.witness.cancelled:
        if evidence.states.get(job_id) != JobState.CANCELLED.value:
            yield f"{job_id} was cancelled and is {evidence.states.get(job_id)}"


def _videos(evidence: Evidence) -> Iterator[str]:
    for job_id, state in evidence.states.items():
        video = evidence.videos.get(f"{job_id}.mp4")
        if state == JobState.SUCCEED.value and video != video_of(job_id):
            yield f"{job_id} has succeeded without its whole video"
    for name in evidence.videos:
        if evidence.states.get(name.removesuffix(".mp4")) != JobState.SUCCEED.value:
            yield f"{name} can be downloaded, but its job has not succeeded"
