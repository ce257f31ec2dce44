"""Requests of the fronts that change something: submit, cancel, remove what has expired."""

import math
import re
from typing import assert_never

from broker.dispatch.commands import (
    AnswerAfter,
    DropInput,
    DropJob,
    FrontEvent,
    JobNotStored,
    JobStored,
    Reply,
    SaveJob,
    ToGroup,
)
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.job_record import Job
from broker.wire.job import GroupShape, JobSpec, JobState, SpecError, choose_layout
from broker.wire.protocol import (
    CancelJob,
    CancelRun,
    DeleteJob,
    ErrorCode,
    ExpiredRemoved,
    GroupReady,
    JobAcceptable,
    JobDeleted,
    JobFound,
    Lease,
    OfferJob,
    Refused,
    RemoveExpired,
    SubmitJob,
)

_RETRY_UNKNOWN_S = 30
_RESTART_GRACE_S = 600.0
# Both become file names.
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_IMAGE = re.compile(r"[0-9a-f]{64}\.ppm")

Request = FrontEvent | JobStored | JobNotStored
Candidate = OfferJob | SubmitJob


class Intake:
    """Takes jobs in and lets them go, on the dispatcher's board.

    Args:
        board: The dispatcher's board.
        shape: What a group can run that has not told; None where nothing is known of it.
        max_queue: Jobs that may wait.
        job_ttl_s: How long a finished job is kept.
        gathering_s: How long after the start groups of which nothing is known may tell of
            themselves.
    """

    def __init__(
        self,
        board: DispatchState,
        shape: GroupShape | None,
        max_queue: int,
        job_ttl_s: float,
        gathering_s: float,
    ) -> None:
        self._board = board
        self._shape = shape
        self._max_queue = max_queue
        self._job_ttl_s = job_ttl_s
        self._gathering_s = gathering_s
        self._arriving: dict[str, Job] = {}

    def handle(self, request: Request, now_s: float) -> None:
        """Carry out a request."""
        match request:
            case OfferJob():
                self._offer(request, now_s)
            case SubmitJob():
                self._submit(request, now_s)
            case JobStored():
                self._board.publish(self._arriving.pop(request.job_id), now_s)
            case JobNotStored():
                self._drop_unused(self._arriving.pop(request.job_id).image)
            case CancelJob():
                self._cancel(request, now_s)
            case DeleteJob():
                self._delete(request, now_s)
            case RemoveExpired():
                self._board.emit(Reply(ExpiredRemoved(removed=self.remove_expired(now_s))))
            case _:
                assert_never(request)

    def remove_expired(self, now_s: float) -> int:
        """Let go of the jobs that ended long enough ago; return how many."""
        expired = list(self._board.jobs.pop_expired(now_s - self._job_ttl_s))
        for job in expired:
            self._drop(job)
        return len(expired)

    def restore_ended(self, job: Job, now_s: float) -> None:
        """Take a job that ended before the broker was started.

        It is kept for a while more, however old it looks: the clock may have been set forward, and
        while the server was down nobody could fetch the video.
        """
        grace_s = min(self._job_ttl_s, _RESTART_GRACE_S)
        self._board.jobs.put(job, max(job.updated_at, now_s - self._job_ttl_s + grace_s))

    def uses_image(self, image: str) -> bool:
        """Whether a job needs an image, be it one that is not stored yet."""
        arriving = any(job.image == image for job in self._arriving.values())
        return arriving or self._board.jobs.uses_image(image)

    def learn(self, report: GroupReady, now_s: float) -> None:
        """Take what a group can run; end the waiting jobs that, as is now known, none can."""
        self._board.jobs.queue.learn(report.shape)
        group = self._board.groups.get(report.group)
        if group is not None and not group.considered and not self._is_gathering():
            group.considered = True
            self._fail_impossible(now_s)

    def _fail_impossible(self, now_s: float) -> None:
        for job in self._board.jobs.queue.unfit():
            error = self._impossible(job.spec)
            if error is not None:
                code = ErrorCode.UNSUPPORTED_LAYOUT
                failed = job.ended(JobState.FAILED, now_s, error_code=code, reason=error.message)
                self._board.save(failed, now_s)

    def _offer(self, message: OfferJob, now_s: float) -> None:
        """Say how `SubmitJob` would be answered, as far as that can be told without the image."""
        known = self._of_key(message)
        if known is None:
            self._board.emit(Reply(self._refusal(message, now_s) or JobAcceptable()))
        elif known.idempotency_key != message.idempotency_key:
            self._refuse_reuse()
        elif known.job_id in self._arriving:
            self._board.emit(Reply(JobAcceptable()))
        else:
            self._tell(known, now_s)

    def _submit(self, message: SubmitJob, now_s: float) -> None:
        """Ask for a place in the journal; a repeated message is answered as the first was."""
        misnamed = _misnamed(message)
        if misnamed is not None:
            self._board.emit(Reply(misnamed))
            return
        jobs = self._board.jobs
        known = jobs.get(message.job_id) or self._arriving.get(message.job_id)
        if known is not None and _content(known) != _content(message):
            self._refuse(ErrorCode.INVALID_FIELD, "this id belongs to another job", "job_id")
        else:
            self._submit_once(message, known or self._of_key(message), now_s)
        self._drop_unused(message.image)

    def _submit_once(self, message: SubmitJob, known: Job | None, now_s: float) -> None:
        if known is None:
            self._submit_new(message, now_s)
        elif known.idempotency_key != message.idempotency_key:
            self._refuse_reuse()
        elif known.job_id in self._arriving:
            self._board.emit(AnswerAfter(known.job_id))
        else:
            self._tell(known, now_s)

    def _submit_new(self, message: SubmitJob, now_s: float) -> None:
        refusal = self._refusal(message, now_s)
        if refusal is not None:
            self._board.emit(Reply(refusal))
            return
        job = Job(
            number=self._board.jobs.take_number(),
            job_id=message.job_id,
            spec=message.spec,
            image=message.image,
            created_at=now_s,
            updated_at=now_s,
            idempotency_key=message.idempotency_key,
            owner=message.owner,
            callback_url=message.callback_url,
            priority=message.priority,
        )
        self._arriving[job.job_id] = job
        self._board.emit(SaveJob(job))
        self._board.emit(AnswerAfter(job.job_id))

    def _of_key(self, message: Candidate) -> Job | None:
        """Return the job that was accepted, or is being accepted, under a client's key."""
        key, owner = message.idempotency_key, message.owner
        if key is None:
            return None
        arriving = (
            job
            for job in self._arriving.values()
            if job.idempotency_key is not None
            and (job.owner, job.idempotency_key.key) == (owner, key.key)
        )
        return self._board.jobs.of_key(owner, key.key) or next(arriving, None)

    def _drop_unused(self, image: str) -> None:
        if not self.uses_image(image):
            self._board.emit(DropInput(image))

    def _refusal(self, message: Candidate, now_s: float) -> Refused | None:
        if self._board.draining:
            return Refused(
                code=ErrorCode.UNAVAILABLE,
                message="the server is about to stop and takes no new job",
                retry_after_s=_RETRY_UNKNOWN_S,
            )
        error = self._impossible(message.spec)
        if error is not None:
            return Refused(
                code=ErrorCode.UNSUPPORTED_LAYOUT, message=error.message, field=error.field
            )
        return self._queue_refusal(message, now_s)

    def _queue_refusal(self, message: Candidate, now_s: float) -> Refused | None:
        num_waiting = len(self._board.jobs.queue) + len(self._arriving)
        share = message.queue_share
        if num_waiting >= self._max_queue:
            found = f"{num_waiting} jobs wait already; at most {self._max_queue} may"
        elif share is not None and (own := self._num_waiting_of(message.owner)) >= share:
            found = f"{own} of your jobs wait already; at most {share} may"
        else:
            return None
        return Refused(
            code=ErrorCode.QUEUE_FULL, message=found, retry_after_s=self._retry_after_s(now_s)
        )

    def _num_waiting_of(self, owner: str | None) -> int:
        arriving = sum(job.owner == owner for job in self._arriving.values())
        return self._board.jobs.queue.num_of(owner) + arriving

    def _impossible(self, spec: JobSpec) -> SpecError | None:
        """Return why no group that there ever was can run a job; one that loads might."""
        error = None
        for shape in self._shapes():
            if shape is None:
                return None
            try:
                choose_layout(spec, shape)
            except SpecError as found:
                error = found
            else:
                return None
        return error

    def _shapes(self) -> list[GroupShape | None]:
        """Return what groups can run; None is a group of which nothing is known."""
        if self._is_gathering():
            return [None]
        shapes: list[GroupShape | None] = [*self._board.jobs.queue.shapes]
        if not shapes or self._board.groups.has_unknown:
            shapes.append(self._shape)
        return shapes

    def _is_gathering(self) -> bool:
        """Whether groups that nobody knows of may be about to tell what they can run."""
        return self._shape is None and self._board.awake.now_s < self._gathering_s

    def _retry_after_s(self, now_s: float) -> int:
        next_end_s = self._board.next_end_s(now_s)
        return _RETRY_UNKNOWN_S if next_end_s is None else max(1, math.ceil(next_end_s))

    def _delete(self, message: DeleteJob, now_s: float) -> None:
        job = self._owned(message)
        if job is None:
            return
        if not job.state.is_terminal:
            self._end(job, now_s)
        self._board.jobs.remove(job.job_id)
        self._drop(job)
        self._board.emit(Reply(JobDeleted()))

    def _drop(self, job: Job) -> None:
        """Have the traces of a job removed that is no longer on the board."""
        self._board.emit(DropJob(job.job_id))
        self._drop_unused(job.image)

    def _owned(self, message: CancelJob | DeleteJob) -> Job | None:
        """Return the job that a message is about, or refuse: there is none for this owner."""
        job = self._board.jobs.get(message.job_id)
        if job is not None and message.owner in (None, job.owner):
            return job
        self._refuse(ErrorCode.JOB_NOT_FOUND, "no job has this id; it may have expired")
        return None

    def _cancel(self, message: CancelJob, now_s: float) -> None:
        job = self._owned(message)
        if job is None:
            return
        if job.state in (JobState.SUCCEED, JobState.FAILED):
            self._refuse(ErrorCode.JOB_FINISHED, f"the job has ended as {job.state.value} before")
        else:
            if job.state is not JobState.CANCELLED:
                job = self._end(job, now_s)
            self._tell(job, now_s)

    def _end(self, job: Job, now_s: float) -> Job:
        """Return the job as a cancelled one, which its group is told to leave."""
        cancelled = job.ended(JobState.CANCELLED, now_s)
        self._board.save(cancelled, now_s)
        self._cancel_run(job.lease)
        return cancelled

    def _cancel_run(self, lease: Lease | None) -> None:
        run = None if lease is None else self._board.find_attempt(lease)
        if run is not None:
            run.cancel(self._board.awake.now_s)
            self._board.emit(ToGroup(run.lease.group, CancelRun(lease=run.lease)))

    def _tell(self, job: Job, now_s: float) -> None:
        self._board.emit(Reply(JobFound(job=self._board.view(job, now_s))))

    def _refuse_reuse(self) -> None:
        self._refuse(
            ErrorCode.IDEMPOTENCY_KEY_REUSE, "this Idempotency-Key belongs to another request"
        )

    def _refuse(self, code: ErrorCode, message: str, field: str | None = None) -> None:
        self._board.emit(Reply(Refused(code=code, message=message, field=field)))


def _content(job: Job | SubmitJob) -> tuple[JobSpec, str, str | None]:
    return job.spec, job.image, job.owner


def _misnamed(message: SubmitJob) -> Refused | None:
    for field, name, pattern in (
        ("job_id", message.job_id, _JOB_ID),
        ("image", message.image, _IMAGE),
    ):
        if not pattern.fullmatch(name):
            found = f"{field} is {name[:80]!r}; expected {pattern.pattern}"
            return Refused(code=ErrorCode.INVALID_FIELD, message=found, field=field)
    return None
