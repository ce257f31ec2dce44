"""A job as the broker holds it: all that the journal keeps of it."""

from operator import attrgetter
from typing import Any

import msgspec

from broker.errors import IllegalMoveError
from broker.wire.job import TRANSITIONS, JobSpec, JobState, Stage
from broker.wire.job_view import JobFields, JobView, Lease
from broker.wire.requests import IdempotencyKey

_VIEWED = attrgetter(*JobFields.__struct_fields__)


class Job(JobFields, frozen=True, kw_only=True):
    """One job at one moment; every change makes a new one with a higher `seq`.

    The journal keeps it as one document: a new field with a default needs no migration.
    """

    number: int
    """Rises with each submission."""
    spec: JobSpec
    image: str
    """File name in the inputs folder."""
    last_image: str | None = None
    """File name of the video's last frame, if the job gives one."""
    idempotency_key: IdempotencyKey | None = None
    callback_url: str | None = None
    """The URL that is called when the job ends."""
    num_lost: int = 0
    """How many attempts were lost; those that ended as planned do not count."""
    lease: Lease | None = None
    """Set exactly while the state is `InProgress`."""
    due_at: float = 0.0
    """The earliest time of the next attempt."""

    @property
    def images(self) -> tuple[str, ...]:
        return (self.image,) if self.last_image is None else (self.image, self.last_image)

    def moved(
        self, state: JobState, now_s: float, reason: str | None = None, **changes: Any
    ) -> "Job":
        """Return the job in another state.

        Raises:
            IllegalMoveError: If no such transition exists.
        """
        if state not in TRANSITIONS[self.state]:
            raise IllegalMoveError(f"job {self.job_id} cannot go from {self.state} to {state}")
        return self.changed(now_s, state=state, reason=reason, **changes)

    def leased(self, lease: Lease, model_hash: str, now_s: float) -> "Job":
        return self.moved(
            JobState.IN_PROGRESS,
            now_s,
            lease=lease,
            attempt=lease.attempt,
            model_hash=model_hash,
            skipped_steps=(),
            stage_s={"queue": round(max(0.0, now_s - self.created_at), 3)},
        )

    def spent(self, stage: Stage, seconds: float) -> dict[str, float]:
        """Return `stage_s` with more time in a stage."""
        before = self.stage_s.get(stage.value, 0.0)
        return {**self.stage_s, stage.value: round(before + seconds, 3)}

    def queued_again(self, now_s: float, num_lost: int, pause_s: float = 0.0) -> "Job":
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
        return self.moved(state, now_s, lease=None, stage=None, **changes)

    def changed(self, now_s: float, **changes: Any) -> "Job":
        return msgspec.structs.replace(self, seq=self.seq + 1, updated_at=now_s, **changes)

    def restored(self) -> "Job":
        # Its next step reports where the attempt is, and the restart was pause enough.
        return msgspec.structs.replace(self, stage=None, step=0, num_steps=0, due_at=0.0)

    def view(self, queue_position: int | None = None, eta_s: float | None = None) -> JobView:
        return JobView(*_VIEWED(self), queue_position=queue_position, eta_s=eta_s)
