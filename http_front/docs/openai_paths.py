"""The paths under `/v1` in the OpenAPI document."""

import copy

from broker.store.store import VIDEO
from http_front.docs.openapi_parts import (
    SMALL_JOB,
    Schema,
    file_responses,
    operation,
    page_parameters,
    query_parameter,
    response,
    submit_content,
    write_lists_as_text,
)
from http_front.files.file_routes import CONTENT_TYPES
from http_front.openai.openai_routes import VARIANTS
from http_front.openai.openai_schema import (
    OPENAI_NAMES,
    STATES,
    Model,
    ModelList,
    OpenAIError,
    Video,
    VideoDeleted,
    VideoList,
)
from http_front.openai.sync_route import ID_HEADER
from http_front.video.schema import EXAMPLE_IMAGE

TYPES = (Video, VideoList, VideoDeleted, Model, ModelList, OpenAIError)

_ABOUT = """Compatible with OpenAI's Videos API, including its objects and errors. Both APIs show
the same jobs. `frame_images`, as gateways send it, may hold the images. A cancelled job has the
status `failed` with the error code `cancelled`."""
_FILE = {"type": "string", "format": "binary"}
_LAST = {"description": "The video's last frame, for models that take one."}
_URL = {"type": "string", "description": "Image URL: http, https or data."}
_LAST_URL = {"anyOf": [_URL | _LAST, {"type": "null"}]}
_EXAMPLE = {OPENAI_NAMES[name]: value for name, value in SMALL_JOB.items()} | {
    "reference_url": EXAMPLE_IMAGE
}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def add_forms(schemas: Schema) -> None:
    """Replace `CreateVideo` with its two forms: with the images as URLs and as files."""
    for name, image, last_image in (
        ("CreateVideoByUrl", {"reference_url": _URL}, {"last_image_url": _LAST_URL}),
        ("CreateVideoByFile", {"input_reference": _FILE}, {"last_image": _FILE | _LAST}),
    ):
        form = copy.deepcopy(schemas["CreateVideo"])
        form["title"] = name
        form["properties"] |= image | last_image
        form["required"] = [*form["required"], *image]
        if image.keys() == {"input_reference"}:
            write_lists_as_text(form)
        schemas[name] = form
    del schemas["CreateVideo"]


def paths(idempotency_key: Schema) -> Schema:
    created = {"200": response("The job is stored and will run.", Video)}
    bodies = submit_content("CreateVideo", _EXAMPLE)
    listed = {"200": response("A page of jobs.", VideoList)}
    return {
        "/v1/videos": {
            "post": _operation("Submit a job", created, body=bodies, parameters=[idempotency_key]),
            "get": _operation("List jobs", listed, parameters=page_parameters(STATES)),
        },
        "/v1/videos/sync": {"post": _sync(bodies, idempotency_key)},
        "/v1/videos/{id}": {
            "get": _operation(
                "Get the status of a job",
                {"200": response("The status.", Video)},
                parameters=[_ID],
            ),
            "delete": _operation(
                "Delete a job and its files",
                {"200": response("The job is deleted.", VideoDeleted)},
                parameters=[_ID],
            ),
        },
        "/v1/videos/{id}/content": {"get": _content()},
        "/v1/models": {
            "get": _operation(
                "List models",
                {"200": response("The models, what they take, and their defaults.", ModelList)},
            )
        },
        "/v1/models/{id}": {
            "get": _operation("Get a model", {"200": response("It.", Model)}, parameters=[_ID])
        },
    }


def _sync(bodies: Schema, idempotency_key: Schema) -> Schema:
    done = {
        "description": "The video.",
        "headers": {
            ID_HEADER: {"description": "The job's id.", "schema": {"type": "string"}},
        },
        "content": {CONTENT_TYPES[VIDEO]: {"schema": _FILE}},
    }
    return _operation(
        "Submit a job and wait for its video",
        {"200": done},
        body=bodies,
        parameters=[idempotency_key],
    )


def _content() -> Schema:
    variant = query_parameter(
        "variant", "Which file to download.", {"enum": list(VARIANTS), "default": "video"}
    )
    responses = file_responses(*sorted(set(CONTENT_TYPES.values())))
    return _operation("Download a video or its stills", responses, parameters=[_ID, variant])


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
