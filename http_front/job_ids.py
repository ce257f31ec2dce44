"""Job ids in requests: checked before use, and added to the log lines of their request."""

import re

from broker.process.log import current_job
from broker.wire.errors import ErrorCode
from broker.wire.job import JOB_ID_PATTERN
from http_front.errors import FrontError

_JOB_ID = re.compile(JOB_ID_PATTERN)


def checked_job_id(text: str, field: str = "requestId") -> str:
    """Return the text if it has the form of a job id.

    Args:
        text: As the client sent it.
        field: The field to name in the error.

    Raises:
        FrontError: If the text cannot be a job id (`JOB_NOT_FOUND`).
    """
    if not _JOB_ID.fullmatch(text):
        raise FrontError(ErrorCode.JOB_NOT_FOUND, "there is no such job", field)
    return text


def use_job_id(text: str, field: str = "requestId") -> str:
    """Check a job id as `checked_job_id` does, and add it to this request's log lines."""
    job_id = checked_job_id(text, field)
    current_job.set(job_id)  # aiohttp handles each request in its own context
    return job_id
