"""The API's document against the API: routes, fields, errors, and every example."""

import json
import re
from typing import Any

import msgspec
import pytest

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec, JobState
from broker.wire.replies import Callback
from http_front.client.exit_codes import MEANINGS
from http_front.docs.openapi import make_document
from http_front.errors import STATUS, ErrorBody
from http_front.openai import openai_schema
from http_front.operators import operator_schema
from http_front.video import job_status, schema
from http_front.webhooks.signing import make_body
from tests.docs.markdown import DOCS, Block, blocks, code_in, table

API = DOCS / "api.md"
EXAMPLES = [block for block in blocks(API) if block.language == "json"]
ONLY_OF_JOBS = {
    "run_failed",
    "out_of_memory",
    "not_finite",
    "lora_invalid",
    "save_failed",
    "group_lost",
    "other_version",
}


def test_every_route_is_in_the_table_and_no_other() -> None:
    documented = [code_in(row[0])[0] for row in table(API, "route")]
    routes = [
        f"{method.upper()} {path}"
        for path, operations in make_document()["paths"].items()
        for method in operations
    ]
    assert sorted(documented) == sorted(routes)


def test_every_field_of_a_job_is_told_with_its_default_and_range() -> None:
    documented = {code_in(row[0])[0]: row for row in table(API, "field") if len(row) == 4}
    fields = {field.name: field for field in msgspec.structs.fields(schema.SubmitByUrl)}
    assert documented.keys() == fields.keys()
    for name, schema_of_field in submit_schema()["properties"].items():
        _, default, allowed, _ = documented[name]
        if isinstance(fields[name].default, (int, float, str)):
            assert default.strip("`") == shown(fields[name].default), name
        for number in limits(schema_of_field):
            assert str(number) in allowed, name


def test_every_field_of_a_status_is_told() -> None:
    documented = {name for row in table(API, "field") if len(row) == 2 for name in code_in(row[0])}
    assert documented == set(job_status.JobStatus.__struct_fields__)


def test_every_error_is_told_with_its_status() -> None:
    documented = {code_in(row[0])[0]: row[1] for row in table(API, "code")}
    expected = {
        code.value: "-" if code.value in ONLY_OF_JOBS else str(STATUS[code]) for code in ErrorCode
    }
    assert documented == expected


def test_the_exit_codes_are_those_of_the_command() -> None:
    documented = {int(row[0]): row[1] for row in table(API, "exit code")}
    assert documented == {int(code): meaning for code, meaning in MEANINGS.items()}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: f"{block.heading} {block.before}")
def test_an_example_is_what_its_struct_says(example: Block) -> None:
    found = json.loads(example.text)
    if example.heading == "Webhooks":
        assert found.keys() == an_event().keys()
        return
    struct = struct_of(example)
    decoded = msgspec.convert(found, struct)
    if not example.before.startswith("Request"):  # an answer has every field
        assert json.loads(msgspec.json.encode(decoded)) == found


def test_every_body_of_an_answer_has_an_example() -> None:
    documented = {
        struct_of(example).__name__ for example in EXAMPLES if example.heading != "Webhooks"
    }
    document = json.dumps(make_document()["paths"])
    answers = set(re.findall(r"#/components/schemas/(\w+)", document))
    assert answers - documented <= {
        "SubmitByFile",
        "CreateVideoByUrl",
        "CreateVideoByFile",
        "OpenAIError",
        "Model",  # an entry of a ModelList
        "JobUpdate",  # the fields of a status and two more
    }


def struct_of(example: Block) -> Any:
    """Return the type of an example: what the OpenAPI document says of its route."""
    if example.heading == "Errors":
        return ErrorBody
    method, _, path = example.heading.partition(" ")
    operation = make_document()["paths"][path][method.lower()]
    if example.before.startswith("Request"):
        content = operation["requestBody"]["content"]
    else:
        answered = re.search(r"Answer, (\d+)", example.before)
        assert answered is not None, f"which answer is it, after {example.before!r}?"
        content = operation["responses"][answered[1]]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    modules = (schema, job_status, operator_schema, openai_schema)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def an_event() -> dict[str, Any]:
    """Return the body of a callback."""
    callback = Callback(
        job_id="5f", url="", owner=None, state=JobState.SUCCEED, ended_at=0.0, tries=0
    )
    event: dict[str, Any] = json.loads(make_body(callback))
    return event


def submit_schema() -> dict[str, Any]:
    """Return the schema of a submit request, in which the types have become limits."""
    found: dict[str, Any] = make_document()["components"]["schemas"]["SubmitByUrl"]
    assert set(JobSpec.__struct_fields__) < set(found["properties"])
    return found


def limits(schema_of_field: dict[str, Any]) -> list[int]:
    """Return the numbers that bound a field."""
    names = ("minimum", "maximum", "exclusiveMinimum")
    choices = schema_of_field.get("anyOf", [schema_of_field])
    return [int(choice[name]) for choice in choices for name in names if name in choice]


def shown(default: object) -> str:
    """Return a default as the table has it."""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, (int, float)) else str(default)
