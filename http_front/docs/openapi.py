"""The OpenAPI document, made from the structs that check and answer requests."""

import copy

import msgspec

from broker.wire.job import JobSpec
from http_front.access.key_guard import OPEN_PATHS
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
)
from http_front.files.file_routes import CONTENT_TYPES, POSTER, SPRITES, VIDEO
from http_front.openai import openai_document
from http_front.video.idempotency import HEADER
from http_front.video.schema import (
    EXAMPLE_IMAGE,
    MAX_SEQ,
    Alive,
    Cancelled,
    Deleted,
    Draining,
    ErrorBody,
    Health,
    JobList,
    JobRef,
    JobStatus,
    JobUpdate,
    Removed,
    SubmitByFile,
    SubmitByUrl,
    Submitted,
    WebhookSecret,
)

_TYPES = (
    *(SubmitByUrl, SubmitByFile, JobSpec, WebhookSecret, JobRef, Submitted, JobStatus, JobUpdate),
    *(JobList, Deleted, Cancelled, Health, Alive, Removed, Draining, ErrorBody),
)
_ABOUT = """A job is submitted, then watched or polled, then its video is fetched. An error is
always `{"error": {"code", "message", "field"}}`, with a message that says what was found and what
is allowed."""

_ABOUT_CALLBACKS = """A job with a `callback_url` ends with a POST to it: `video.completed` or
`video.failed`, with the job's id as `data.id`, signed after the Standard Webhooks specification.
It is tried again after 10 s, 30 s, 2 min, 10 min, 30 min and 1 h until the answer is 2xx."""

_FILES = {
    VIDEO: "a video",
    POSTER: "one frame of a video",
    SPRITES: "ten frames of a video, in two rows of five",
}

_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "description": "Your name for this request. As long as its job is known, the same request "
    "under the same name is answered with the same job, and another one with 422.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


# What the id in the answer to a submit request is good for.
_ID = {"requestId": "$response.body#/requestId"}
_LINKS = {
    "links": {
        "status": {"operationRef": "#/paths/~1video~1status/post", "requestBody": _ID},
        "cancel": {"operationRef": "#/paths/~1video~1cancel/post", "requestBody": _ID},
        "progress": {"operationRef": "#/paths/~1video~1progress/get", "parameters": _ID},
        "video": {"operationRef": "#/paths/~1videos~1{requestId}.mp4/get", "parameters": _ID},
    }
}


def make_document(with_keys: bool = False) -> Schema:
    """Return the document as JSON-ready objects.

    Args:
        with_keys: Whether clients must show an API key.
    """
    types = (*_TYPES, *openai_document.TYPES)
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    openai_document.add_forms(components)
    form = _with_file(components["SubmitByFile"])
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "wan-ranks",
            "version": "1",  # of the API
            "description": _ABOUT,
        },
        "paths": _paths(),
        "components": {"schemas": components | {"SubmitByFile": form}},
    }
    if with_keys:
        _ask_for_keys(document)
    return document


def _ask_for_keys(document: Schema) -> None:
    document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"apiKey": []}]
    for path in OPEN_PATHS & document["paths"].keys():
        for method in document["paths"][path].values():
            method["security"] = []


def _with_file(spec: Schema) -> Schema:
    """Return the schema of a form: the fields of a job, and the image as a file."""
    form = copy.deepcopy(spec)
    form["properties"]["image"] = {
        "type": "string",
        "format": "binary",
        "description": "JPEG, PNG or WebP; 64 to 8192 pixels a side; at most 20 MiB.",
    }
    form["required"] = [*form["required"], "image"]
    return form


def _paths() -> Schema:
    job = {"application/json": {"schema": ref("JobRef"), "example": {"requestId": "5f0c" * 8}}}
    return {
        "/video/submit": {
            "post": operation(
                "Submit a job",
                {"202": response("The job is on disk and will run.", Submitted) | _LINKS},
                body=submit_content("Submit", SMALL_JOB | {"image_url": EXAMPLE_IMAGE}),
                parameters=[_IDEMPOTENCY_KEY],
            )
        },
        "/video/status": {
            "post": operation(
                "Tell how a job is", {"200": response("How it is now.", JobStatus)}, body=job
            )
        },
        "/video/cancel": {
            "post": operation(
                "End a job", {"200": response("It has ended, for good.", Cancelled)}, body=job
            )
        },
        "/video/delete": {
            "post": operation(
                "Remove a job and its files",
                {"200": response("Nothing of it is left.", Deleted)},
                body=job,
                about="One that has not ended is cancelled first.",
            )
        },
        "/video/list": {
            "get": operation(
                "List jobs",
                {"200": response("A page of them, newest first.", JobList)},
                parameters=page_parameters(),
            )
        },
        "/video/webhook_secret": {
            "get": operation(
                "Tell the secret that signatures of callbacks are checked with",
                {"200": response("It is the caller's own.", WebhookSecret)},
                about=_ABOUT_CALLBACKS,
            )
        },
        **openai_document.paths(_IDEMPOTENCY_KEY),
        "/video/progress": {"get": _progress()},
        **{f"/videos/{{requestId}}{ending}": {"get": _file(ending)} for ending in CONTENT_TYPES},
        "/health": {
            "get": operation(
                "Tell whether jobs are served",
                {
                    "200": response("A group is ready.", Health),
                    "503": response("No group is ready, or the server stops.", Health),
                },
            )
        },
        "/live": {
            "get": operation("Tell that the front answers", {"200": response("It does.", Alive)})
        },
        "/metrics": {
            "get": operation(
                "Tell the metrics of the server, for Prometheus",
                {"200": {"description": "They are.", "content": {"text/plain": {}}}},
                about="Where API keys are in use, it takes that of an administrator.",
            )
        },
        "/admin/cleanup": {
            "post": operation(
                "Remove expired jobs now", {"200": response("They are gone.", Removed)}
            )
        },
        "/admin/drain": {
            "post": operation(
                "Let what runs finish, then end the server",
                {"202": response("Nothing more is started.", Draining)},
                about="As SIGTERM does. A job that does not finish within --drain-timeout waits "
                "for the next start and loses no attempt.",
            )
        },
    }


def _progress() -> Schema:
    last_seq = {
        "name": "last_seq",
        "in": "query",
        "description": "`seq` of the last change that is known; the feed goes on after it.",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_SEQ, "default": 0},
    }
    previews = {
        "name": "previews",
        "in": "query",
        "description": "1 asks for pictures of the running job, too: JPEGs in binary messages, at "
        "most two a second.",
        "schema": {"type": "string", "enum": ["0", "1"], "default": "0"},
    }
    about = (
        "A WebSocket. The job as it is comes first, then every change, each a JSON text of the "
        "form of JobUpdate; after the last one the server closes with 1000. Pages, which cannot "
        "set headers here, show an API key as one of the subprotocols `wan` and `bearer.KEY`."
    )
    responses = {"101": {"description": about, "content": json_content(JobUpdate)}}
    return operation(
        "Watch a job",
        responses,
        parameters=[_id_parameter("query"), last_seq, previews],
        about=about,
    )


def _file(ending: str) -> Schema:
    responses = file_responses(CONTENT_TYPES[ending])
    return operation(f"Fetch {_FILES[ending]}", responses, parameters=[_id_parameter("path")])


def _id_parameter(place: str) -> Schema:
    return {"name": "requestId", "in": place, "required": True, "schema": {"type": "string"}}
