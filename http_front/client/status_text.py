"""The status of a job, in the words of `wan status`."""

import time
from collections.abc import Iterator

from http_front.video.job_status import JobStatus
from http_front.video.schema import Kept


def status_text(status: JobStatus) -> str:
    """Return a line for each thing that is known."""
    return "\n".join(f"{name:15} {value}" for name, value in _lines(status) if value is not None)


def kept_text(kept: Kept) -> str:
    if kept.kept or kept.expires_at is None:
        return "kept"
    return f"expires {_local_time(kept.expires_at)}"


def duration(seconds: float) -> str:
    """Return a duration with its two largest units."""
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _lines(status: JobStatus) -> Iterator[tuple[str, object]]:
    yield "status", status.status.value
    yield "reason", status.reason
    yield "warning", status.warning and status.warning.value
    yield "notice", status.notice
    yield "video", status.results and status.results.video_url
    yield "queue position", status.queue_position
    yield "progress", _progress(status)
    yield "time left", None if status.eta_s is None else f"about {duration(status.eta_s)}"
    yield "submitted", _local_time(status.created_at)
    yield "last change", _local_time(status.updated_at)
    yield "kept", "yes" if status.kept else None
    yield "expires", None if status.expires_at is None else _local_time(status.expires_at)
    yield "time spent", _spent(status) or None
    yield "attempt", status.attempt or None
    yield "priority", status.priority or None
    yield "model", status.model


def _progress(status: JobStatus) -> str:
    done = f"{status.progress:.0%}"
    if status.stage is None:
        return done
    step = f", step {status.step} of {status.num_steps}" if status.num_steps else ""
    return f"{done} ({status.stage.value}{step})"


def _spent(status: JobStatus) -> str:
    return ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in status.stage_s.items())


def _local_time(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
