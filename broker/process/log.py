"""Log entries of every process: one line each, with process and job, as text or as JSON."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import msgspec

from broker.process.log_writer import LogWriter

LogFormat = Literal["text", "json"]

current_job: ContextVar[str | None] = ContextVar("current_job", default=None)
"""The job that the running code works for; each log entry names it."""

current_stage: ContextVar[str | None] = ContextVar("current_stage", default=None)
"""The stage of a rank; JSON entries name it."""


@contextmanager
def about_job(job_id: str | None) -> Iterator[None]:
    token = current_job.set(job_id)
    try:
        yield
    finally:
        current_job.reset(token)


# Line separators and direction marks can forge lines in viewers as well.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def configure_logging(process: str, log_format: LogFormat) -> None:
    """Send all log entries to standard error, under a process name such as `rank-3`."""
    formatter = JsonFormatter(process) if log_format == "json" else TextFormatter(process)
    logging.basicConfig(level=logging.INFO, handlers=[LogWriter(formatter)], force=True)


def one_line(text: str) -> str:
    """Escape every control character, so that the text cannot forge a log line."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.000 INFO rank-3 [job] message`; only tracebacks take more lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        job_id = current_job.get()
        job = f" [{job_id}]" if job_id else ""
        line = (
            f"{stamp}.{int(record.msecs):03d} {record.levelname} {self._process}{job} "
            f"{one_line(record.getMessage())}"
        )
        if record.exc_info:
            # Indented, so that no line of a traceback passes for an entry of its own.
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {one_line(part)}" for part in trace)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per entry."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        _, _, rank = process.partition("rank-")
        self._rank = int(rank) if rank.isdigit() else None

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "ts": round(record.created, 3),
            "level": record.levelname,
            "process": self._process,
            "rank": self._rank,
            "stage": current_stage.get(),
            "job_id": current_job.get(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()
