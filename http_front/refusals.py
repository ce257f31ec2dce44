"""The middleware that turns whatever goes wrong into the one shape of an error."""

import errno
import logging

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.typedefs import Handler

from broker.wire.protocol import ErrorCode
from http_front.errors import FrontError
from http_front.video.routes import answer
from http_front.video.schema import ErrorBody, ErrorDetail

logger = logging.getLogger(__name__)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors without internals; what is our fault goes to the log."""
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
    """Return the response that tells an error."""
    detail = ErrorDetail(code=error.code, message=error.message, field=error.field)
    response = answer(ErrorBody(error=detail), status=status or error.status)
    if error.code is ErrorCode.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _http_refusal(error: web.HTTPException) -> web.Response:
    """Say in our shape what aiohttp refused."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"this address answers {allowed} only"
        response = refusal(FrontError(ErrorCode.METHOD_NOT_ALLOWED, message))
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, web.HTTPNotFound):
        return refusal(FrontError(ErrorCode.NOT_FOUND, "there is nothing at this address"))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        message = "the body is too large; send the image as a file in multipart/form-data"
        return refusal(FrontError(ErrorCode.BODY_TOO_LARGE, message))
    message = f"the request was refused: {error.reason}"
    response = refusal(FrontError(ErrorCode.INVALID_BODY, message), status=error.status)
    if "Content-Range" in error.headers:  # of a range that a file has not
        response.headers["Content-Range"] = error.headers["Content-Range"]
    return response


def _os_refusal(error: OSError) -> web.Response:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        logger.error("no space is left: %s", error)
        message = "no space is left on the server"
        return refusal(FrontError(ErrorCode.STORAGE_FULL, message, retry_after_s=60))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        logger.error("no more files can be opened: %s", error)
        message = "the server has too much to do at once"
        return refusal(FrontError(ErrorCode.UNAVAILABLE, message, retry_after_s=5))
    if isinstance(error, ConnectionError):  # the client has gone; nobody reads the answer
        return refusal(FrontError(ErrorCode.INVALID_BODY, "the connection broke off"))
    logger.error("a request failed", exc_info=error)
    return _our_fault()


def _our_fault() -> web.Response:
    return refusal(FrontError(ErrorCode.INTERNAL, "the server failed; its log says more"))
