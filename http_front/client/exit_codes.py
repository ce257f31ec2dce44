"""How `wan` ends: its exit codes, and what each error is told as."""

from enum import IntEnum

import msgspec

from http_front.access.keys import KeyFileError
from http_front.client.client import ClientError, RefusedError
from http_front.errors import FrontError


class ExitCode(IntEnum):
    """What a script can tell from the end of a command."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    CANCELLED = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the job failed; of doctor: something keeps the server from starting",
    ExitCode.REFUSED: "the command line is wrong, or the server or a file refuses it",
    ExitCode.UNREACHABLE: "no answer from the server, or one of 500 and above",
    ExitCode.CANCELLED: "the job was cancelled",
    ExitCode.INTERRUPTED: "Ctrl-C",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error, in the form that the server's own errors have."""

    code: str
    message: str
    field: str | None = None


class UsageError(Exception):
    """Raised when the command line makes no sense."""


class LeftRunningError(Exception):
    """Raised when Ctrl-C has ended the watch of a job that goes on."""


Known = FrontError | ClientError | KeyFileError | OSError | UsageError | LeftRunningError


def explain(error: Known) -> tuple[ExitCode, Problem]:
    """Return how `wan` ends with an error, and what it says."""
    match error:
        case FrontError():
            problem = Problem(code=error.code.value, message=error.message, field=error.field)
            return _of_status(error.status), problem
        case RefusedError(detail=detail):
            problem = Problem(code=detail.code.value, message=detail.message, field=detail.field)
            return _of_status(error.status), problem
        case ClientError():
            return ExitCode.UNREACHABLE, Problem(code="unreachable", message=str(error))
        case LeftRunningError():
            return ExitCode.INTERRUPTED, Problem(code="interrupted", message=str(error))
        case UsageError():
            return ExitCode.REFUSED, Problem(code="usage", message=str(error))
        case KeyFileError() | OSError():
            return ExitCode.REFUSED, Problem(code="file", message=str(error))


def _of_status(status: int) -> ExitCode:
    return ExitCode.UNREACHABLE if status >= 500 else ExitCode.REFUSED
