"""Remembers which jobs the server has removed by itself, so that their clients learn it."""

from collections import OrderedDict
from typing import NamedTuple

from broker.dispatch.job_record import Job
from broker.wire.errors import ErrorCode
from broker.wire.replies import Refused

MAX_REMEMBERED = 3_000
"""Some 300 bytes each."""
UNKNOWN_JOB = Refused(
    code=ErrorCode.JOB_NOT_FOUND, message="no job has this id; it may have expired"
)
BY_AGE = Refused(
    code=ErrorCode.JOB_EXPIRED,
    message="the job has expired: a job is removed some time after its end, unless its video is "
    "kept",
)
FOR_ROOM = Refused(
    code=ErrorCode.JOB_EXPIRED,
    message="the job has expired early: the server's disk was nearly full, so the oldest videos "
    "that were not kept were removed",
)


class _Gone(NamedTuple):
    owner: str | None
    refusal: Refused


class GoneJobs:
    """The latest jobs that the server removed by itself since it started."""

    def __init__(self) -> None:
        self._gone: OrderedDict[str, _Gone] = OrderedDict()

    def add(self, job: Job, refusal: Refused) -> None:
        self._gone[job.job_id] = _Gone(job.owner, refusal)
        if len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)

    def refusal(self, job_id: str, owner: str | None) -> Refused:
        """Return how a request about a job that is not here is answered."""
        gone = self._gone.get(job_id)
        return gone.refusal if gone is not None and owner in (None, gone.owner) else UNKNOWN_JOB
