"""The middleware that puts errors into OpenAI's form for requests under `/v1/`."""

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from http_front.errors import ErrorBody
from http_front.openai.openai_schema import OpenAIError, OpenAIErrorDetail
from http_front.responses import json_response

FOLDER = "/v1/"
_OWN_HEADERS = ("x-should-retry", "Video-Id")
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if request.path.startswith(FOLDER) and response.status >= 400:
        return _translated(response)
    return response


def _translated(response: web.StreamResponse) -> web.Response:
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    error = msgspec.json.decode(response.body, type=ErrorBody).error
    default = "server_error" if response.status >= 500 else "invalid_request_error"
    detail = OpenAIErrorDetail(
        message=error.message,
        type=_TYPES.get(response.status, default),
        param=error.field,
        code=error.code.value,
        fields=error.fields,
    )
    translated = json_response(OpenAIError(error=detail), status=response.status)
    for name in ("WWW-Authenticate", "Retry-After", "Allow", "Content-Range", *_OWN_HEADERS):
        if name in response.headers:
            translated.headers[name] = response.headers[name]
    return translated
