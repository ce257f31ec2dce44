"""Builds parts of the OpenAPI document, shared by the two APIs."""

from collections.abc import Iterable
from typing import Any

import msgspec

from http_front.errors import ErrorBody

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"

SMALL_JOB = {
    "prompt": "A small sailing boat drifts across a calm bay",
    "image_size": "128*128",
    "num_frames": 24,
    "infer_steps": 20,
}
"""The job in the examples; it takes seconds on any machine."""


def operation(
    summary: str,
    responses: Schema,
    *,
    body: Schema | None = None,
    parameters: list[Schema] | None = None,
    about: str | None = None,
    refusal: type[msgspec.Struct] = ErrorBody,
) -> Schema:
    made: Schema = {"summary": summary}
    if about is not None:
        made["description"] = about
    if parameters is not None:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": body}
    made["responses"] = responses | {"default": response("An error.", refusal)}
    return made


def response(description: str, body: type[msgspec.Struct]) -> Schema:
    return {"description": description, "content": json_content(body)}


def json_content(body: type[msgspec.Struct]) -> Schema:
    return {"application/json": {"schema": ref(body.__name__)}}


def submit_content(prefix: str, example: Schema) -> Schema:
    """Return the body of a submit request in its two forms; `example` shows the JSON form."""
    return {
        "application/json": {"schema": ref(f"{prefix}ByUrl"), "example": example},
        "multipart/form-data": {"schema": ref(f"{prefix}ByFile")},
    }


def write_lists_as_text(form: Schema) -> None:
    """Change the lists of a form into text, as its parts are sent."""
    for field in form["properties"].values():
        for kind in (field, *field.get("anyOf", ())):
            if kind.get("type") == "array":
                about = f"{kind['description']} A list, as JSON."
                kind |= {"type": "string", "description": about}
                if "default" in kind:
                    kind["default"] = "[]"
                kind.pop("items", None)  # the page reads `maxItems`


def file_responses(*content_types: str) -> Schema:
    schema = {"schema": {"type": "string", "format": "binary"}}
    content = {content_type: schema for content_type in content_types}
    return {
        "200": {"description": "The file.", "content": content},
        "206": {"description": "The requested range.", "content": content},
        "307": {
            "description": "A link to the file in the object store, valid for ten minutes. Only if "
            "the server runs with --store-downloads redirect."
        },
    }


def query_parameter(name: str, about: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": about, "schema": schema}


def page_parameters(states: Iterable[str]) -> list[Schema]:
    state = f"({'|'.join(states)})"
    return [
        query_parameter(
            "status",
            f"Only jobs with one of these, separated by commas: {', '.join(states)}.",
            {"type": "string", "pattern": f"^{state}(,{state})*$"},
        ),
        query_parameter(
            "search",
            "Only jobs with each of these words in the prompts, the seed, the model's name or the "
            "id; of the 5,000 jobs after `after`.",
            {"type": "string", "maxLength": 200},
        ),
        query_parameter(
            "kept", "true: only videos that are kept.", {"type": "boolean", "default": False}
        ),
        query_parameter("after", "Id of the last job of the previous page.", {"type": "string"}),
        query_parameter(
            "limit",
            "Maximum number of jobs per page.",
            {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        ),
        query_parameter(
            "order",
            "By time of submission: asc is oldest first.",
            {"enum": ["asc", "desc"], "default": "desc"},
        ),
    ]


def ref(name: str) -> Schema:
    return {"$ref": REF.format(name=name)}
