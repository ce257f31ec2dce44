"""Whether a job is taken in: its model, its layouts, and the length of the queue."""

import math

from broker.dispatch.arrivals import Arrivals
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.policy import DispatchPolicy
from broker.wire.errors import ErrorCode
from broker.wire.group_shape import GroupShape, choose_layout
from broker.wire.job import JobSpec, SpecError
from broker.wire.replies import Refused
from broker.wire.requests import OfferJob, SubmitJob
from broker.wire.spec_check import check_last_image, check_spec

_RETRY_UNKNOWN_S = 30
_DRAINING = Refused(
    code=ErrorCode.UNAVAILABLE,
    message="the server is about to stop and takes no new job",
    retry_after_s=_RETRY_UNKNOWN_S,
)

Candidate = OfferJob | SubmitJob


class AdmissionRules:
    """Decides whether a job is taken in; changes nothing.

    Args:
        state: Of the dispatcher.
        policy: Limits of the queue.
        arriving: Jobs on their way to the journal, which wait, too.
    """

    def __init__(self, state: DispatchState, policy: DispatchPolicy, arriving: Arrivals) -> None:
        self._state = state
        self._policy = policy
        self._arriving = arriving

    @property
    def is_gathering(self) -> bool:
        """Whether unknown groups may be about to report what they can run."""
        return self._policy.is_open and self._state.awake.now_s < self._policy.lost_s

    def refusal(self, candidate: Candidate, now_s: float) -> Refused | None:
        """Return why a job is refused, if it is.

        Args:
            candidate: The job.
            now_s: Time of the day.
        """
        if self._state.draining:
            return _DRAINING
        spec = self._state.models.resolve(candidate.spec)
        refusal = self._model_refusal(candidate, spec)
        if refusal is not None:
            return refusal
        error = self.impossible(spec)
        if error is not None:
            return Refused(
                code=ErrorCode.UNSUPPORTED_LAYOUT, message=error.message, field=error.field
            )
        return self._queue_refusal(candidate, now_s)

    def impossible(self, spec: JobSpec) -> SpecError | None:
        """Return why no group that was ever here can run a job; a group that loads might."""
        error = None
        for shape in self._shapes(spec.model):
            if shape is None:
                return None
            try:
                choose_layout(spec, shape)
            except SpecError as found:
                error = found
            else:
                return None
        return error

    def _model_refusal(self, candidate: Candidate, spec: JobSpec) -> Refused | None:
        """Check a job against the profile of its model, whose groups may all be away."""
        models = self._state.models
        unknown = models.unknown(spec.model)
        if unknown is not None:
            return Refused(code=ErrorCode.UNKNOWN_MODEL, message=unknown, field="model")
        profile = models.get(spec.model)
        if profile is None:
            return None
        try:
            check_spec(spec, profile)
            if isinstance(candidate, SubmitJob):
                check_last_image(candidate.last_image is not None, profile)
        except SpecError as error:
            return Refused(code=ErrorCode.INVALID_FIELD, message=error.message, field=error.field)
        return None

    def _queue_refusal(self, candidate: Candidate, now_s: float) -> Refused | None:
        queue, owner = self._state.jobs.queue, candidate.owner
        num_waiting = len(queue) + len(self._arriving)
        num_own = queue.num_of(owner) + self._arriving.num_of(owner)
        limit, share = self._policy.max_queue, candidate.queue_share
        if num_waiting >= limit:
            message = f"{num_waiting} jobs wait already; at most {limit} may"
        elif share is not None and num_own >= share:
            message = f"{num_own} of your jobs wait already; at most {share} may"
        else:
            return None
        return Refused(
            code=ErrorCode.QUEUE_FULL, message=message, retry_after_s=self._retry_after_s(now_s)
        )

    def _shapes(self, model: str | None) -> list[GroupShape | None]:
        """Return what groups of a model can run; None stands for a group that may run anything."""
        if self.is_gathering:
            return [None]
        known = self._state.jobs.queue.shapes
        shapes: list[GroupShape | None] = [s for s in known if s.model.name == model]
        if not shapes or self._state.groups.has_unknown:
            own = [shape for shape in self._policy.shapes if shape.model.name == model]
            shapes += [None] if self._policy.is_open else own
        return shapes

    def _retry_after_s(self, now_s: float) -> int:
        next_end_s = self._state.next_end_s(now_s)
        return _RETRY_UNKNOWN_S if next_end_s is None else max(1, math.ceil(next_end_s))
