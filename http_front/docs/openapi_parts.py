"""The pieces that the OpenAPI document is put together from."""

from typing import Any

import msgspec

from http_front.video.schema import ErrorBody

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"

SMALL_JOB = {
    "prompt": "A small sailing boat drifts across a calm bay",
    "image_size": "128*128",
    "num_frames": 24,
    "infer_steps": 20,
}
"""What the examples ask for: made in seconds on any machine."""


def operation(
    summary: str,
    responses: Schema,
    *,
    body: Schema | None = None,
    parameters: list[Schema] | None = None,
    about: str | None = None,
    refusal: type[msgspec.Struct] = ErrorBody,
) -> Schema:
    """Return what a method of a path does."""
    made: Schema = {"summary": summary}
    if about is not None:
        made["description"] = about
    if parameters is not None:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": body}
    made["responses"] = responses | {"default": response("Refused.", refusal)}
    return made


def response(description: str, body: type[msgspec.Struct]) -> Schema:
    """Return an answer in JSON."""
    return {"description": description, "content": json_content(body)}


def json_content(body: type[msgspec.Struct]) -> Schema:
    """Return a body in JSON."""
    return {"application/json": {"schema": ref(body.__name__)}}


def submit_content(prefix: str, example: Schema) -> Schema:
    """Return the two forms of a submit request's body; `example` is one in JSON."""
    return {
        "application/json": {"schema": ref(f"{prefix}ByUrl"), "example": example},
        "multipart/form-data": {"schema": ref(f"{prefix}ByFile")},
    }


def file_responses(*content_types: str) -> Schema:
    """Return the answers of a route that sends a file."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    content = {content_type: schema for content_type in content_types}
    return {
        "200": {"description": "The whole file.", "content": content},
        "206": {"description": "The range that was asked for.", "content": content},
        "307": {"description": "The file is there for ten minutes, if the operator wants it so."},
    }


def query_parameter(name: str, about: str, schema: Schema) -> Schema:
    """Return a parameter that may be left out."""
    return {"name": name, "in": "query", "description": about, "schema": schema}


def page_parameters() -> list[Schema]:
    """Return the parameters of a list of jobs."""
    return [
        query_parameter("after", "The last job of the page before.", {"type": "string"}),
        query_parameter(
            "limit",
            "Jobs of a page.",
            {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        ),
        query_parameter("order", "By age.", {"enum": ["asc", "desc"], "default": "desc"}),
    ]


def ref(name: str) -> Schema:
    """Return the reference to a schema."""
    return {"$ref": REF.format(name=name)}
