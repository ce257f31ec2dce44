"""Names, groups and errors of the OpenAPI document's operations."""

import re
from collections.abc import Iterator

from http_front.access.key_guard import OPEN_PATHS
from http_front.docs.openapi_parts import Schema
from http_front.errors import STATUS

TAGS = {
    "Jobs": "Submit, watch and cancel jobs.",
    "Files": "Videos and stills from them.",
    "OpenAI": "The same jobs, as in OpenAI's Videos API.",
    "Server": "Health, metrics and administration.",
}
_TAG_OF = {"/video/": "Jobs", "/videos/": "Files", "/v1/": "OpenAI"}
_EVERYWHERE = (403, 500)
_WITH_BROKER = (503,)
_WITH_KEY = (401, 429)
_WITH_BODY = (400, 408, 413, 415, 422)
_WITH_QUERY = (422,)
_OF_ONE = (404,)
_WITH_RANGES = (416,)
_MORE = {
    "post /video/submit": (429,),
    "post /v1/videos": (429,),
    "post /v1/videos/sync": (404, 409, 429, 504),
    "post /video/cancel": (404, 409),
    "post /video/status": (404,),
    "post /video/delete": (404,),
    "post /video/keep": (404, 409),
    "get /video/list": (404,),
    "get /v1/videos": (404,),
    "get /video/progress": (404,),
    "get /video/webhook_secret": (404,),
}


def complete(document: Schema, with_keys: bool) -> None:
    """Give each operation its name, its group, and the errors that it may answer with."""
    document["tags"] = [{"name": name, "description": about} for name, about in TAGS.items()]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["operationId"] = _operation_id(method, path)
            operation["tags"] = [_tag(path)]
            error = operation["responses"].pop("default")
            for status in sorted({*_errors(method, path, operation, with_keys)}):
                told = operation["responses"].setdefault(str(status), dict(error))
                if told["description"] == error["description"]:
                    told["description"] = _codes(status)
            operation["responses"]["default"] = error


def _operation_id(method: str, path: str) -> str:
    """Return a name such as `postVideoSubmit`, from which generators make functions."""
    words = re.findall("[A-Za-z0-9]+", path)
    return method + "".join(word[0].upper() + word[1:] for word in words)


def _tag(path: str) -> str:
    return next((tag for start, tag in _TAG_OF.items() if path.startswith(start)), "Server")


def _errors(method: str, path: str, operation: Schema, with_keys: bool) -> Iterator[int]:
    yield from _EVERYWHERE
    if path in OPEN_PATHS:
        return
    yield from _WITH_BROKER
    if with_keys:
        yield from _WITH_KEY
    if "requestBody" in operation:
        yield from _WITH_BODY
    parameters = operation.get("parameters", [])
    if any(parameter["in"] == "query" for parameter in parameters):
        yield from _WITH_QUERY
    if any(parameter["in"] == "path" for parameter in parameters):
        yield from _OF_ONE
    if "206" in operation["responses"]:
        yield from _WITH_RANGES
    yield from _MORE.get(f"{method} {path}", ())


def _codes(status: int) -> str:
    codes = [code.value for code, of_code in STATUS.items() if of_code == status]
    return f"An error: {', '.join(codes)}." if codes else "An error."
