"""Exit codes of `wan`, and the exit code and message of each error."""

from enum import IntEnum

import msgspec

from http_front.access.keys import KeyFileError
from http_front.client.client import ClientError, RefusedError
from http_front.errors import FrontError


class ExitCode(IntEnum):
    """Exit codes of the `wan` commands."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    CANCELLED = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the job failed, wan doctor found an error, or the model cannot be served",
    ExitCode.REFUSED: "the command line is wrong, the server refused, or a file cannot be used",
    ExitCode.UNREACHABLE: "the server did not respond, or responded with status 500 or above",
    ExitCode.CANCELLED: "the job was cancelled",
    ExitCode.INTERRUPTED: "Ctrl-C",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error, in the same form as the server's errors."""

    code: str
    message: str
    field: str | None = None


class UsageError(Exception):
    """Raised when the command line is not valid."""


class LeftRunningError(Exception):
    """Raised when Ctrl-C ends a watch and the job keeps running."""


Known = FrontError | ClientError | KeyFileError | OSError | UsageError | LeftRunningError


def explain(error: Known) -> tuple[ExitCode, Problem]:
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
