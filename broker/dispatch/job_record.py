"""A job as the broker holds it: what the journal keeps, and where its run is."""

from typing import Any

import msgspec

from broker.errors import IllegalMoveError
from broker.wire.job import TRANSITIONS, JobSpec, JobState, Stage
from broker.wire.protocol import ErrorCode, IdempotencyKey, JobView, Lease


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job at one moment; every change makes a new one with a higher `seq`."""

    number: int
    """Rises with each submission."""
    job_id: str
    spec: JobSpec
    image: str
    created_at: float
    updated_at: float
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    """Name of the API key that submitted it; None where no keys were in use."""
    callback_url: str | None = None
    """Where to tell of its end."""
    priority: int = 0
    state: JobState = JobState.IN_QUEUE
    attempt: int = 0
    """Number of the latest attempt."""
    num_lost: int = 0
    """How many of them were lost; those that were left as planned are not."""
    lease: Lease | None = None
    """Who runs it, exactly while the state is `InProgress`."""
    seq: int = 1
    progress: float = 0.0
    reason: str | None = None
    """Why it has failed; while it runs, what it waits for."""
    error_code: ErrorCode | None = None
    video: str | None = None

    stage_s: dict[str, float] = {}
    """Seconds that the latest attempt has spent in each stage, and before it in the queue."""

    stage: Stage | None = None
    step: int = 0
    num_steps: int = 0
    """Where the run is; not in the journal, since the next step tells it again."""

    due_at: float = 0.0
    """From when on it may be given to a group; not in the journal, so that a restarted broker,
    which comes up after a pause of its own, lets nothing wait."""

    def moved(
        self, state: JobState, now_s: float, reason: str | None = None, **changes: Any
    ) -> "Job":
        """Return the job in another state, for which the reason is a new one.

        Raises:
            IllegalMoveError: If no such transition exists.
        """
        if state not in TRANSITIONS[self.state]:
            raise IllegalMoveError(f"job {self.job_id} cannot go from {self.state} to {state}")
        return self.changed(now_s, state=state, reason=reason, **changes)

    def leased(self, lease: Lease, now_s: float) -> "Job":
        """Return the job as one that a group runs."""
        return self.moved(
            JobState.IN_PROGRESS,
            now_s,
            lease=lease,
            attempt=lease.attempt,
            stage_s={"queue": round(max(0.0, now_s - self.created_at), 3)},
        )

    def spent(self, stage: Stage, seconds: float) -> dict[str, float]:
        """Return `stage_s` with more time in a stage."""
        before = self.stage_s.get(stage.value, 0.0)
        return self.stage_s | {stage.value: round(before + seconds, 3)}

    def queued_again(self, now_s: float, num_lost: int, pause_s: float = 0.0) -> "Job":
        """Return the job as one that waits, after a pause; so many attempts were lost by now."""
        return self.moved(
            JobState.IN_QUEUE,
            now_s,
            lease=None,
            num_lost=num_lost,
            stage=None,
            step=0,
            num_steps=0,
            due_at=now_s + pause_s,
        )

    def ended(self, state: JobState, now_s: float, **changes: Any) -> "Job":
        """Return the job in a state for good."""
        return self.moved(state, now_s, lease=None, stage=None, **changes)

    def changed(self, now_s: float, **changes: Any) -> "Job":
        """Return the job with some fields changed, and a `seq` that says so."""
        return msgspec.structs.replace(self, seq=self.seq + 1, updated_at=now_s, **changes)

    def view(self, queue_position: int | None = None, eta_s: float | None = None) -> JobView:
        """Return what clients may know."""
        return JobView(
            job_id=self.job_id,
            seq=self.seq,
            state=self.state,
            progress=self.progress,
            created_at=self.created_at,
            updated_at=self.updated_at,
            attempt=self.attempt,
            stage=self.stage,
            step=self.step,
            num_steps=self.num_steps,
            eta_s=eta_s,
            queue_position=queue_position,
            reason=self.reason,
            error_code=self.error_code,
            video=self.video,
            priority=self.priority,
            owner=self.owner,
            stage_s=self.stage_s,
        )
