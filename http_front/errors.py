"""The front's exception, the body that tells of it, and the HTTP status of each `ErrorCode`."""

import msgspec

from broker.wire.errors import ErrorCode
from broker.wire.replies import Refused

STATUS = {
    ErrorCode.INVALID_BODY: 400,
    ErrorCode.INVALID_FIELD: 422,
    ErrorCode.UNSUPPORTED_LAYOUT: 422,
    ErrorCode.UNKNOWN_MODEL: 422,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.IMAGE_URL_FORBIDDEN: 422,
    ErrorCode.IMAGE_UNAVAILABLE: 422,
    ErrorCode.IMAGE_REMOVED: 503,
    ErrorCode.IMAGE_TOO_LARGE: 413,
    ErrorCode.IMAGE_INVALID: 422,
    ErrorCode.IDEMPOTENCY_KEY_REUSE: 422,
    ErrorCode.JOB_NOT_FOUND: 404,
    ErrorCode.JOB_EXPIRED: 404,  # as for every client that knows no such code
    ErrorCode.JOB_FINISHED: 409,
    ErrorCode.KEEP_LIMIT: 409,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.STORAGE_FULL: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.WAIT_TIMEOUT: 504,
    ErrorCode.INTERNAL: 500,
    # The codes below say why a job failed; no request is refused with them.
    ErrorCode.RUN_FAILED: 500,
    ErrorCode.OUT_OF_MEMORY: 500,
    ErrorCode.NOT_FINITE: 500,
    ErrorCode.SAVE_FAILED: 500,
    ErrorCode.GROUP_LOST: 500,
}


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Details of an error."""

    code: ErrorCode
    message: str
    field: str | None = None
    fields: list[FieldProblem] | msgspec.UnsetType = msgspec.UNSET
    """Every wrong field, if there are several; `field` is the first."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error response."""

    error: ErrorDetail


class FrontError(Exception):
    """Raised when a request is refused. The client sees these arguments only.

    Args:
        code: Determines the HTTP status.
        message: What was found and what is allowed, for people.
        field: The request field that caused the error.
        retry_after_s: When the client may send the same request again.
        problems: Each wrong field, where several are.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        field: str | None = None,
        retry_after_s: int | None = None,
        problems: tuple[FieldProblem, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.problems = problems

    @classmethod
    def from_refusal(cls, refused: Refused) -> "FrontError":
        return cls(refused.code, refused.message, refused.field, refused.retry_after_s)

    @property
    def status(self) -> int:
        return STATUS[self.code]
