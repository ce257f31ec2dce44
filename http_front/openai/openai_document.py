"""The part of the OpenAPI document that is about `/v1/videos`."""

import copy

from http_front.docs.openapi_parts import (
    SMALL_JOB,
    Schema,
    file_responses,
    operation,
    page_parameters,
    query_parameter,
    response,
    submit_content,
)
from http_front.files.file_routes import CONTENT_TYPES
from http_front.openai.openai_routes import VARIANTS
from http_front.openai.openai_schema import (
    CLIENT_NAMES,
    CreateVideo,
    OpenAIError,
    Video,
    VideoDeleted,
    VideoList,
)
from http_front.video.schema import EXAMPLE_IMAGE

TYPES = (CreateVideo, Video, VideoList, VideoDeleted, OpenAIError)

_ABOUT = """For clients of OpenAI's Videos API, with its objects and errors. The same jobs are seen
by both APIs. A cancelled job is `failed` with the code `cancelled`."""
_URL = {"type": "string", "description": "Where the image is: an http, https or data URL."}
_EXAMPLE = {CLIENT_NAMES[name]: value for name, value in SMALL_JOB.items()} | {
    "reference_url": EXAMPLE_IMAGE
}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def add_forms(schemas: Schema) -> None:
    """Add the bodies of a create request: `CreateVideo` with an image as a URL or as a file."""
    for name, field, image in (
        ("CreateVideoByUrl", "reference_url", _URL),
        ("CreateVideoByFile", "input_reference", {"type": "string", "format": "binary"}),
    ):
        form = copy.deepcopy(schemas["CreateVideo"])
        form["title"] = name
        form["properties"][field] = image
        form["required"] = [*form["required"], field]
        schemas[name] = form
    del schemas["CreateVideo"]


def paths(idempotency_key: Schema) -> Schema:
    """Return the paths."""
    created = {"200": response("The job is on disk and will run.", Video)}
    bodies = submit_content("CreateVideo", _EXAMPLE)
    listed = {"200": response("A page of them.", VideoList)}
    return {
        "/v1/videos": {
            "post": _operation("Submit a job", created, body=bodies, parameters=[idempotency_key]),
            "get": _operation("List jobs", listed, parameters=page_parameters()),
        },
        "/v1/videos/{id}": {
            "get": _operation(
                "Tell how a job is", {"200": response("How it is now.", Video)}, parameters=[_ID]
            ),
            "delete": _operation(
                "Remove a job and its files",
                {"200": response("Nothing of it is left.", VideoDeleted)},
                parameters=[_ID],
            ),
        },
        "/v1/videos/{id}/content": {"get": _content()},
    }


def _content() -> Schema:
    variant = query_parameter("variant", "Which.", {"enum": list(VARIANTS), "default": "video"})
    responses = file_responses(*sorted(set(CONTENT_TYPES.values())))
    return _operation("Fetch a video, or stills from it", responses, parameters=[_ID, variant])


def _operation(
    summary: str,
    responses: Schema,
    *,
    body: Schema | None = None,
    parameters: list[Schema] | None = None,
) -> Schema:
    return operation(
        summary, responses, body=body, parameters=parameters, about=_ABOUT, refusal=OpenAIError
    )
