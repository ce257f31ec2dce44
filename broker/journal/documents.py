"""Reads the documents of jobs, also those that another version of this server has written."""

import logging
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from broker.dispatch.job_record import Job
from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec, JobState, SpecError

logger = logging.getLogger(__name__)

_JOB = msgspec.json.Decoder(Job)
_PLACEHOLDERS: dict[type, dict[str, Any]] = {
    Job: {"image": f"{0:064x}.webp", "created_at": 0.0},
    JobSpec: {"prompt": "(cannot be read: made by another version)"},
}
"""Of fields without a default that cannot be read."""


class ReadJob(NamedTuple):
    """A job as its document holds it."""

    job: Job
    is_changed: bool = False
    """Whether it has failed because of its document, which does not say so yet."""


def read_job(number: int, document: str) -> ReadJob:
    """Return the job of a document, whose unknown fields are left out.

    An ended job remains what it is. One that has not ended fails, since what is left out may be
    what its client wants.

    Raises:
        msgspec.DecodeError: If the document is not JSON.
    """
    try:
        return ReadJob(_JOB.decode(document))
    except msgspec.ValidationError:
        pass
    fields = msgspec.json.decode(document, type=dict[str, Any])
    lost: list[str] = []
    spec = _spec(fields.pop("spec", {}), lost)
    job = Job(**_readable(Job, fields | {"number": number}, lost), spec=spec)
    named = ", ".join(sorted(lost))
    logger.warning("job %s: made by another version; unreadable: %s", job.job_id, named)
    if job.state.is_terminal:
        return ReadJob(job)
    reason = (
        f"made by another version of this server, which this one cannot read in full: {named}; "
        "submit it again"
    )
    failed = job.ended(
        JobState.FAILED, job.updated_at, reason=reason, error_code=ErrorCode.OTHER_VERSION
    )
    return ReadJob(failed, is_changed=True)


def _spec(found: object, lost: list[str]) -> JobSpec:
    values = _readable(JobSpec, found, lost)
    try:
        return JobSpec(**values)
    except SpecError as error:  # this version has other rules
        lost.append(error.field)
        return JobSpec(**_PLACEHOLDERS[JobSpec])


def _readable(kind: type[msgspec.Struct], found: object, lost: list[str]) -> dict[str, Any]:
    """Return the fields of a struct that can be read; the names of the others go to `lost`."""
    given = found if isinstance(found, dict) else {}
    known = {field.name: field for field in structs.fields(kind) if field.type is not JobSpec}
    lost += [name for name in given if name not in known]
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in given:
            try:
                values[name] = msgspec.convert(given[name], field.type)
                continue
            except msgspec.ValidationError:
                pass
        elif not field.required:
            continue
        lost.append(name)
        if name in _PLACEHOLDERS[kind]:
            values[name] = _PLACEHOLDERS[kind][name]
    return values
