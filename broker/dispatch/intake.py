"""Requests that change something: submit, cancel, delete, keep, remove expired jobs."""

import re
from collections.abc import Iterable, Mapping
from typing import assert_never

from msgspec import structs

from broker.dispatch.admission_rules import AdmissionRules, Candidate
from broker.dispatch.arrivals import Arrivals
from broker.dispatch.commands import (
    Admission,
    AdmitJob,
    Client,
    DropInput,
    DropJob,
    FrontEvent,
    JobAdmitted,
    JobRefused,
    Reply,
    ToGroup,
)
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.gone_jobs import BY_AGE, FOR_ROOM, GoneJobs
from broker.dispatch.job_record import Job
from broker.dispatch.keeping import Keeping, KeptMarks
from broker.dispatch.policy import DispatchPolicy
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun
from broker.wire.group_reports import GroupReady
from broker.wire.job import IMAGE_PATTERN, JOB_ID_PATTERN, JobState
from broker.wire.job_view import Lease
from broker.wire.lora import hashes_of
from broker.wire.replies import (
    ExpiredRemoved,
    FrontReply,
    JobAcceptable,
    JobDeleted,
    JobFound,
    Refused,
)
from broker.wire.requests import (
    CancelJob,
    DeleteJob,
    KeepJob,
    OfferJob,
    RemoveExpired,
    SubmitJob,
)

_RESTART_GRACE_S = 600.0
_SPARED_S = 3600.0
"""A full disk removes no job that has ended more recently: its client may be about to fetch it."""
_REMOVED_AT_ONCE = 5
"""Videos removed from a full disk before its free space is measured again."""
# Both become file names.
_JOB_ID = re.compile(JOB_ID_PATTERN)
_IMAGE = re.compile(IMAGE_PATTERN)
_NO_SECONDS: Mapping[str, float] = {}
"""Shared by all jobs that have not begun: an empty dict of its own for each takes memory."""
_KEY_REUSED = Refused(
    code=ErrorCode.IDEMPOTENCY_KEY_REUSE, message="this Idempotency-Key belongs to another request"
)
_ID_TAKEN = Refused(
    code=ErrorCode.INVALID_FIELD, message="this id belongs to another job", field="job_id"
)


class Intake:
    """Takes jobs in and lets them go.

    Args:
        state: Of the dispatcher.
        policy: Limits of the queue.
    """

    def __init__(self, state: DispatchState, policy: DispatchPolicy) -> None:
        self._state = state
        self._policy = policy
        self._arriving = Arrivals()
        self._rules = AdmissionRules(state, policy, self._arriving)
        self.keeping = Keeping(state, policy)
        self.gone = GoneJobs()

    @property
    def has_arriving_jobs(self) -> bool:
        return len(self._arriving) > 0

    def handle(self, request: FrontEvent, client: Client, now_s: float) -> None:
        match request:
            case OfferJob():
                self._reply(client, self._preview(request, now_s))
            case SubmitJob():
                self._submit(request, client, now_s)
            case CancelJob():
                self._reply(client, self._cancel(request, now_s))
            case DeleteJob():
                self._reply(client, self._delete(request, now_s))
            case KeepJob():
                self._reply(client, self._keep(request, now_s))
            case RemoveExpired():
                self._reply(client, ExpiredRemoved(removed=self.remove_expired(now_s)))
            case _:
                assert_never(request)

    def settle(self, admission: Admission, now_s: float) -> None:
        job, clients = self._arriving.pop(admission.job_id)
        reply: FrontReply
        match admission:
            case JobAdmitted():
                reply = self._admitted(job, now_s)
            case JobRefused():
                self._drop_unused(job.images)
                reply = admission.refusal
            case _:
                assert_never(admission)
        for client in clients:
            self._reply(client, reply)

    def _admitted(self, job: Job, now_s: float) -> JobFound:
        present = self._state.with_model(job)
        if present is job:
            return JobFound(job=self._state.publish(job, now_s))
        # The first model became known meanwhile.
        self._state.save(present.changed(now_s), now_s)
        return self._found(present.changed(now_s), now_s)

    def remove_expired(self, now_s: float) -> int:
        expired = self._state.jobs.expired(now_s - self._policy.job_ttl_s)
        for job in expired:
            self.gone.add(job, BY_AGE)
            self._drop(job)
        return len(expired)

    def free_space(self, now_s: float) -> None:
        """Remove images for another try, else the oldest videos that are not kept."""
        if self._state.jobs.images.remove_all_without_video():
            self._state.drop_unused_images()
            return
        spared_s = min(_SPARED_S, self._policy.job_ttl_s)
        for job in self._state.jobs.oldest_videos(now_s - spared_s, _REMOVED_AT_ONCE):
            self.gone.add(job, FOR_ROOM)
            self._drop(job)

    def remove_surplus(self) -> None:
        for job in self._state.jobs.surplus(self._policy.max_without_video):
            self.gone.add(job, BY_AGE)
            self._drop(job)

    def restore_ended(self, job: Job, now_s: float, kept: KeptMarks) -> None:
        # It is kept for some time however old it looks: the clock may have been set forward, and
        # while the server was down its video could not be fetched.
        ttl_s = self._policy.job_ttl_s
        grace_s = min(ttl_s, _RESTART_GRACE_S)
        let_go_at = kept.get(job.number, job.updated_at)
        from_s = job.updated_at if let_go_at is None else min(let_go_at, now_s)
        self._state.jobs.put(job, max(from_s, now_s - ttl_s + grace_s))
        if let_go_at is None:
            self._state.jobs.retention.keep(job)

    def uses_image(self, image: str) -> bool:
        return self._arriving.uses_image(image) or image in self._state.jobs.images

    def learn_shape(self, report: GroupReady, now_s: float) -> None:
        group = self._state.groups.get(report.group)
        if group is None or group.shape is None:
            return
        self._state.jobs.queue.learn(group.shape)
        if not group.considered and not self._rules.is_gathering:
            group.considered = True
            self._fail_impossible(group.shape.model.name, now_s)

    def _fail_impossible(self, model: str, now_s: float) -> None:
        for job in self._state.jobs.queue.unfit(model):
            error = self._rules.impossible(job.spec)
            if error is not None:
                code = ErrorCode.UNSUPPORTED_LAYOUT
                failed = job.ended(JobState.FAILED, now_s, error_code=code, reason=error.message)
                self._state.save(failed, now_s)

    def _preview(self, offer: OfferJob, now_s: float) -> FrontReply:
        """Return how `SubmitJob` would be answered, as far as the image does not matter."""
        known = self._job_of_key(offer)
        if known is None:
            return self._rules.refusal(offer, now_s) or JobAcceptable()
        if known.idempotency_key != offer.idempotency_key:
            return _KEY_REUSED
        is_arriving = self._arriving.get(known.job_id) is not None
        return JobAcceptable() if is_arriving else self._found(known, now_s)

    def _submit(self, submit: SubmitJob, client: Client, now_s: float) -> None:
        refusal = _misnamed(submit)
        if refusal is not None:
            self._reply(client, refusal)
            return
        # A repeated message is answered as the first one was.
        known = self._known(submit.job_id) or self._job_of_key(submit)
        if known is None:
            self._submit_new(submit, client, now_s)
        elif known.job_id == submit.job_id and not _repeats(submit, known):
            self._reply(client, _ID_TAKEN)
        elif known.idempotency_key != submit.idempotency_key:
            self._reply(client, _KEY_REUSED)
        elif (arrival := self._arriving.get(known.job_id)) is not None:
            arrival.clients.append(client)
        else:
            self._reply(client, self._found(known, now_s))
        self._drop_unused(_images(submit))

    def _submit_new(self, submit: SubmitJob, client: Client, now_s: float) -> None:
        refusal = self._rules.refusal(submit, now_s)
        if refusal is not None:
            self._reply(client, refusal)
            return
        spec = self._state.models.resolve(submit.spec)
        profile = self._state.models.get(spec.model)
        job = Job(
            number=self._state.jobs.take_number(),
            job_id=submit.job_id,
            spec=spec,
            lora_hashes=hashes_of(spec.loras, () if profile is None else profile.loras),
            image=submit.image,
            last_image=submit.last_image,
            created_at=now_s,
            updated_at=now_s,
            stage_s=_NO_SECONDS,
            idempotency_key=submit.idempotency_key,
            owner=submit.owner,
            callback_url=submit.callback_url,
            priority=submit.priority,
        )
        self._arriving.add(job, client)
        self._state.emit(AdmitJob(job))

    def _known(self, job_id: str) -> Job | None:
        arrival = self._arriving.get(job_id)
        return self._state.jobs.get(job_id) if arrival is None else arrival.job

    def _job_of_key(self, candidate: Candidate) -> Job | None:
        key, owner = candidate.idempotency_key, candidate.owner
        if key is None:
            return None
        return self._state.jobs.of_key(owner, key.key) or self._arriving.of_key(owner, key.key)

    def _drop_unused(self, images: Iterable[str]) -> None:
        for image in images:
            if not self.uses_image(image):
                self._state.emit(DropInput(image))

    def _delete(self, request: DeleteJob, now_s: float) -> FrontReply:
        job = self._owned(request)
        if job is None:
            return self.gone.refusal(request.job_id, request.owner)
        self._drop(job if job.state.is_terminal else self._end(job, now_s))
        return JobDeleted()

    def _drop(self, job: Job) -> None:
        self._state.jobs.remove(job.job_id)
        self._state.emit(DropJob(job.job_id))
        self._state.drop_unused_images()

    def _keep(self, request: KeepJob, now_s: float) -> FrontReply:
        job = self._owned(request)
        if job is None:
            return self.gone.refusal(request.job_id, request.owner)
        if not request.keep:
            self.keeping.let_go(job, now_s)
        elif (refusal := self.keeping.keep(job)) is not None:
            return refusal
        return self._found(job, now_s)

    def _owned(self, request: CancelJob | DeleteJob | KeepJob) -> Job | None:
        job = self._state.jobs.get(request.job_id)
        return job if job is not None and request.owner in (None, job.owner) else None

    def _cancel(self, request: CancelJob, now_s: float) -> FrontReply:
        job = self._owned(request)
        if job is None:
            return self.gone.refusal(request.job_id, request.owner)
        if job.state in (JobState.SUCCEED, JobState.FAILED):
            message = f"the job has ended as {job.state.value} before"
            return Refused(code=ErrorCode.JOB_FINISHED, message=message)
        if job.state is not JobState.CANCELLED:
            job = self._end(job, now_s)
        return self._found(job, now_s)

    def _end(self, job: Job, now_s: float) -> Job:
        cancelled = job.ended(JobState.CANCELLED, now_s)
        self._state.save(cancelled, now_s)
        self._cancel_attempt(job.lease)
        return cancelled

    def _cancel_attempt(self, lease: Lease | None) -> None:
        attempt = None if lease is None else self._state.find_attempt(lease)
        if attempt is not None:
            attempt.cancel(self._state.awake.now_s)
            self._state.groups.reindex(attempt.lease.group)
            self._state.emit(ToGroup(attempt.lease.group, CancelRun(lease=attempt.lease)))

    def _found(self, job: Job, now_s: float) -> JobFound:
        return JobFound(job=self.keeping.with_expiry(self._state.view(job, now_s)))

    def _reply(self, client: Client, message: FrontReply) -> None:
        self._state.emit(Reply(client, message))


def _images(submit: SubmitJob) -> tuple[str, ...]:
    return (submit.image,) if submit.last_image is None else (submit.image, submit.last_image)


def _repeats(submit: SubmitJob, job: Job) -> bool:
    """Whether a message could have made a job, which has got the default model since."""
    spec = submit.spec
    if spec.model is None:
        spec = structs.replace(spec, model=job.spec.model)
    return (spec, _images(submit), submit.owner) == (job.spec, job.images, job.owner)


def _misnamed(submit: SubmitJob) -> Refused | None:
    for field, name, pattern in (
        ("job_id", submit.job_id, _JOB_ID),
        ("image", submit.image, _IMAGE),
        ("last_image", submit.last_image, _IMAGE),
    ):
        if name is not None and not pattern.fullmatch(name):
            found = f"{field} is {name[:80]!r}; expected {pattern.pattern}"
            return Refused(code=ErrorCode.INVALID_FIELD, message=found, field=field)
    return None
