"""The middleware that turns every error into an `ErrorBody` response."""

import errno
import logging

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.typedefs import Handler

from broker.store.store import REFUSED_WRITES
from broker.wire.errors import ErrorCode
from http_front.errors import ErrorBody, ErrorDetail, FrontError
from http_front.responses import json_response

logger = logging.getLogger(__name__)


class _UnroutedDetail(ErrorDetail, frozen=True, kw_only=True):
    """Details of an error in the terms of both APIs."""

    type: str = "invalid_request_error"
    param: None = None


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors without internal details. Server faults are logged."""
    try:
        return await handler(request)
    except FrontError as error:
        return refusal(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _http_refusal(error)
    except (aiohttp.ClientPayloadError, web.RequestPayloadError, BadHttpMessage):
        return refusal(FrontError(ErrorCode.INVALID_BODY, "the body is broken"))
    except OSError as error:
        return _os_refusal(error)
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return _our_fault()


def refusal(error: FrontError, status: int | None = None) -> web.Response:
    detail = ErrorDetail(
        code=error.code,
        message=error.message,
        field=error.field,
        fields=list(error.problems) if len(error.problems) > 1 else msgspec.UNSET,
    )
    response = json_response(ErrorBody(error=detail), status=status or error.status)
    if error.code is ErrorCode.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def unrouted_refusal(message: str, status: int) -> web.Response:
    """Refuse a request that no middleware has seen; it may have been meant for either API."""
    detail = _UnroutedDetail(code=ErrorCode.INVALID_BODY, message=message)
    return json_response(ErrorBody(error=detail), status=status)


def _http_refusal(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"this route allows only {allowed}"
        response = refusal(FrontError(ErrorCode.METHOD_NOT_ALLOWED, message))
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, web.HTTPNotFound):
        return refusal(FrontError(ErrorCode.NOT_FOUND, "there is no such route"))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        message = "the body is too large; send the image as a file in multipart/form-data"
        return refusal(FrontError(ErrorCode.BODY_TOO_LARGE, message))
    message = f"the request was refused: {error.reason}"
    response = refusal(FrontError(ErrorCode.INVALID_BODY, message), status=error.status)
    if "Content-Range" in error.headers:  # 416: gives the length of the file
        response.headers["Content-Range"] = error.headers["Content-Range"]
    return response


def _os_refusal(error: OSError) -> web.Response:
    if error.errno in REFUSED_WRITES:
        logger.error("the disk takes no more: %s", error)
        message = "the server's disk is full or read-only; try again later"
        return refusal(FrontError(ErrorCode.STORAGE_FULL, message, retry_after_s=60))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        logger.error("the limit of open files is reached: %s", error)
        message = "the server is overloaded; try again later"
        return refusal(FrontError(ErrorCode.UNAVAILABLE, message, retry_after_s=5))
    if isinstance(error, ConnectionError):  # the client is gone and will not see this response
        return refusal(FrontError(ErrorCode.INVALID_BODY, "the connection was closed"))
    logger.error("a request failed", exc_info=error)
    return _our_fault()


def _our_fault() -> web.Response:
    return refusal(FrontError(ErrorCode.INTERNAL, "internal error; see the server's log"))
