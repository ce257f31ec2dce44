"""Makes the OpenAPI document from the structs of requests and responses."""

import copy
from collections.abc import Sequence

import msgspec

from broker.store.store import POSTER, SPRITES, VIDEO
from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from http_front.access.key_guard import OPEN_PATHS
from http_front.docs import openai_paths
from http_front.docs.openapi_parts import (
    REF,
    SMALL_JOB,
    Schema,
    file_responses,
    json_content,
    operation,
    page_parameters,
    ref,
    response,
    submit_content,
    write_lists_as_text,
)
from http_front.docs.operation_names import complete
from http_front.errors import ErrorBody
from http_front.files.file_routes import CONTENT_TYPES
from http_front.files.input_routes import INPUT, LAST_INPUT
from http_front.models.profile_fields import TextLimits, narrowed
from http_front.openai.openai_schema import create_type
from http_front.operators.operator_schema import Alive, Draining, Health, Removed
from http_front.video.idempotency import HEADER
from http_front.video.job_status import MAX_SEQ, JobList, JobStatus, JobUpdate
from http_front.video.listing import STATES
from http_front.video.schema import (
    EXAMPLE_IMAGE,
    Cancelled,
    Deleted,
    JobRef,
    KeepVideo,
    Kept,
    SubmitByFile,
    SubmitByUrl,
    Submitted,
    WebhookSecret,
)

_TYPES = (
    *(JobSpec, WebhookSecret, JobRef, Submitted, JobStatus, JobUpdate),
    *(JobList, Deleted, KeepVideo, Kept, Cancelled, Health, Alive, Removed, Draining, ErrorBody),
)
_ABOUT = """Submit a job, watch or poll it, then download its video. Every error has the form
`{"error": {"code", "message", "field"}}`. The message says what was found and what is allowed."""

_ABOUT_CALLBACKS = """When a job with a `callback_url` ends, the server sends a POST request to that
URL: `video.completed` or `video.failed`, with the job's id as `data.id`, signed according to the
Standard Webhooks specification. If the response is not 2xx, the server tries again after 10 s,
30 s, 2 min, 10 min, 30 min and 1 h."""

_FILES = {
    VIDEO: "a video",
    POSTER: "one frame of a video",
    SPRITES: "ten frames of a video in two rows of five",
    INPUT: "the picture of a job",
    LAST_INPUT: "the last frame that a job was given",
}

_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "description": "A key of your choice for this request. As long as the job is kept, the same "
    "request with the same key returns the same job, and a different request returns 422.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


_KEPT = {"requestId": "5f0c" * 8, "keep": True}

# Operations that take the id from the response to a submit request.
_ID = {"requestId": "$response.body#/requestId"}
_LINKS = {
    "links": {
        "status": {"operationRef": "#/paths/~1video~1status/post", "requestBody": _ID},
        "cancel": {"operationRef": "#/paths/~1video~1cancel/post", "requestBody": _ID},
        "progress": {"operationRef": "#/paths/~1video~1progress/get", "parameters": _ID},
        "video": {"operationRef": "#/paths/~1videos~1{requestId}.mp4/get", "parameters": _ID},
    }
}


def make_document(
    with_keys: bool = False,
    profile: ModelProfile | None = None,
    models: Sequence[str] = (),
    limits: TextLimits = TextLimits(),  # noqa: B008 (it is immutable)
) -> Schema:
    """Return the document as JSON-ready objects.

    Args:
        with_keys: Whether clients must show an API key.
        profile: Of the default model, for the ranges and defaults of a job's fields; None takes
            those of Wan2.1.
        models: Names of the models that jobs may name.
        limits: Of the texts that come by `/video/submit`.
    """
    profile = profile or ModelProfile()
    submits = (narrowed(SubmitByUrl, profile, limits), narrowed(SubmitByFile, profile, limits))
    bodies = (*submits, create_type(profile))
    types = (*bodies, *_TYPES, *openai_paths.TYPES)
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    openai_paths.add_forms(components)
    for name in ("SubmitByUrl", "SubmitByFile"):
        _name_models(components[name], models)
    form = _with_files(components["SubmitByFile"])
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "wan-ranks",
            "version": "1",  # version of the API
            "description": _ABOUT,
        },
        "paths": _paths(),
        "components": {"schemas": components | {"SubmitByFile": form}},
    }
    complete(document, with_keys)
    if with_keys:
        _require_keys(document)
    return document


def _require_keys(document: Schema) -> None:
    document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"apiKey": []}]
    for path in OPEN_PATHS & document["paths"].keys():
        for method in document["paths"][path].values():
            method["security"] = []


def _name_models(form: Schema, models: Sequence[str]) -> None:
    if models:
        form["properties"]["model"]["anyOf"][0]["enum"] = list(models)


def _with_files(spec: Schema) -> Schema:
    form = copy.deepcopy(spec)
    form["properties"]["image"] = {
        "type": "string",
        "format": "binary",
        "description": "JPEG, PNG, WebP, GIF (first frame) or AVIF; 64 to 8192 pixels per side; at "
        "most 20 MiB.",
    }
    form["properties"]["last_image"] = {
        "type": "string",
        "format": "binary",
        "description": "The video's last frame, for models that take one; otherwise as `image`.",
    }
    form["required"] = [*form["required"], "image"]
    write_lists_as_text(form)
    return form


def _paths() -> Schema:
    job = {"application/json": {"schema": ref("JobRef"), "example": {"requestId": "5f0c" * 8}}}
    return {
        "/video/submit": {
            "post": operation(
                "Submit a job",
                {"202": response("The job is stored and will run.", Submitted) | _LINKS},
                body=submit_content("Submit", SMALL_JOB | {"image_url": EXAMPLE_IMAGE}),
                parameters=[_IDEMPOTENCY_KEY],
            )
        },
        "/video/status": {
            "post": operation(
                "Get the status of a job", {"200": response("The status.", JobStatus)}, body=job
            )
        },
        "/video/cancel": {
            "post": operation(
                "Cancel a job", {"200": response("The job has ended.", Cancelled)}, body=job
            )
        },
        "/video/delete": {
            "post": operation(
                "Delete a job and its files",
                {"200": response("The job is deleted.", Deleted)},
                body=job,
                about="A job that has not ended is cancelled first.",
            )
        },
        "/video/keep": {
            "post": operation(
                "Keep a video whatever its age, or let it expire again",
                {"200": response("Whether it is kept.", Kept)},
                body={"application/json": {"schema": ref("KeepVideo"), "example": _KEPT}},
                about="Each user may keep a number of videos that the operator sets.",
            )
        },
        "/video/list": {
            "get": operation(
                "List jobs",
                {"200": response("A page of jobs, newest first by default.", JobList)},
                parameters=page_parameters(STATES),
            )
        },
        "/video/webhook_secret": {
            "get": operation(
                "Get the secret that verifies callback signatures",
                {"200": response("The caller's secret.", WebhookSecret)},
                about=_ABOUT_CALLBACKS,
            )
        },
        **openai_paths.paths(_IDEMPOTENCY_KEY),
        "/video/progress": {"get": _progress()},
        **{f"/videos/{{requestId}}{ending}": {"get": _file(ending)} for ending in _FILES},
        "/health": {
            "get": operation(
                "Check whether the server runs jobs",
                {
                    "200": response("A group is ready.", Health),
                    "503": response("No group is ready, or the server is stopping.", Health),
                },
            )
        },
        "/live": {
            "get": operation(
                "Check whether the front responds", {"200": response("The front responds.", Alive)}
            )
        },
        "/metrics": {
            "get": operation(
                "Get the server's metrics for Prometheus",
                {"200": {"description": "All metrics.", "content": {"text/plain": {}}}},
                about="If the server requires API keys, this needs an administrator's key.",
            )
        },
        "/admin/cleanup": {
            "post": operation(
                "Remove expired jobs now", {"200": response("They are removed.", Removed)}
            )
        },
        "/admin/drain": {
            "post": operation(
                "Let running jobs finish, then stop the server",
                {"202": response("No more jobs are started.", Draining)},
                about="The same as SIGTERM. A job that does not finish within --drain-timeout "
                "runs again after the next start, and the interruption does not count as an "
                "attempt.",
            )
        },
    }


def _progress() -> Schema:
    last_seq = {
        "name": "last_seq",
        "in": "query",
        "description": "`seq` of the last change you received; the feed continues after it.",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_SEQ, "default": 0},
    }
    previews = {
        "name": "previews",
        "in": "query",
        "description": "Set to 1 to also get previews of the running job: JPEGs in binary "
        "messages, at most two per second.",
        "schema": {"type": "string", "enum": ["0", "1"], "default": "0"},
    }
    about = (
        "A WebSocket. The server sends the job as it is now, then every change, each as a JSON "
        "text in the form of JobUpdate. After the last change it closes with 1000. A web page "
        "cannot set headers on a WebSocket; it sends its API key by offering the subprotocols "
        "`wan` and `bearer.KEY`."
    )
    responses = {"101": {"description": about, "content": json_content(JobUpdate)}}
    return operation(
        "Watch a job",
        responses,
        parameters=[_id_parameter("query"), last_seq, previews],
        about=about,
    )


def _file(ending: str) -> Schema:
    responses = file_responses(CONTENT_TYPES.get(ending, "image/webp"))
    return operation(f"Download {_FILES[ending]}", responses, parameters=[_id_parameter("path")])


def _id_parameter(where: str) -> Schema:
    return {"name": "requestId", "in": where, "required": True, "schema": {"type": "string"}}
