import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire.job import JobSpec
from http_front.app import create_app
from http_front.docs.openapi import make_document
from tests.broker.driver import broker_config, running_broker
from tests.http_front.serving import Served, serve

PAGES = {"/", "/docs", "/openapi.json", "/static/{name}", "/favicon.ico", "/static/page/{name}"}


def test_every_route_is_in_the_document_and_every_path_is_a_route(
    front: Served,
) -> None:
    routes = {
        (route.method.lower(), resource.canonical)
        for resource in create_app(front.config).router.resources()
        for route in resource
        if route.method != "HEAD" and resource.canonical not in PAGES
    }
    documented = {
        (method, path)
        for path, operations in make_document()["paths"].items()
        for method in operations
    }
    assert documented == routes


def test_every_reference_points_to_a_schema() -> None:
    document = make_document()
    text = msgspec.json.encode(document).decode()
    used = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert used <= set(document["components"]["schemas"])


@pytest.mark.parametrize("name", ["SubmitByUrl", "SubmitByFile"])
def test_every_field_of_a_job_is_described_with_its_range(name: str) -> None:
    schema = make_document()["components"]["schemas"][name]
    for field in JobSpec.__struct_fields__:
        found = schema["properties"][field]
        assert "description" in str(found)
    assert schema["properties"]["num_frames"]["minimum"] == 24
    assert schema["properties"]["num_frames"]["maximum"] == 121
    assert schema["required"][0] == "prompt"
    assert schema["additionalProperties"] is False


def test_every_operation_has_a_name_and_a_group_and_its_errors() -> None:
    document = make_document(with_keys=True)
    tags = {tag["name"] for tag in document["tags"]}
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    assert {tag for operation in operations.values() for tag in operation["tags"]} == tags
    assert operations["post", "/video/submit"]["operationId"] == "postVideoSubmit"
    submit = operations["post", "/v1/videos"]["responses"]
    assert {"400", "401", "403", "408", "413", "415", "422", "429", "500", "503"} < submit.keys()
    assert "queue_full" in submit["429"]["description"]
    assert "429" in operations["get", "/v1/videos"]["responses"]
    assert "409" in operations["post", "/video/cancel"]["responses"]
    assert "404" in operations["get", "/videos/{requestId}.mp4"]["responses"]
    health = operations["get", "/health"]["responses"]
    assert health["503"]["description"].startswith("No group is ready")
    assert "401" not in health


async def test_every_example_of_a_body_is_accepted() -> None:
    bodies = json_bodies()
    assert len(bodies) == 5
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        config = broker_config(Path(state_dir))
        async with running_broker(config), serve(Path(state_dir), config.addresses) as front:
            for path, body, promised in bodies:
                example = body["example"]
                if "requestId" in example:
                    example = {"requestId": await front.submit()}
                    assert len(example["requestId"]) == len(body["example"]["requestId"])
                status, answer = await front.post(path, example)
                assert str(status) in promised, answer


def json_bodies() -> list[tuple[str, Any, set[str]]]:
    """Return path, JSON body and documented success codes of each operation with a body."""
    return [
        (
            path,
            operation["requestBody"]["content"]["application/json"],
            {status for status in operation["responses"] if status < "300"},
        )
        for path, operations in make_document()["paths"].items()
        for operation in operations.values()
        # Without a group, no job ends, and none has a video to keep.
        if "requestBody" in operation and not path.endswith(("/sync", "/keep"))
    ]


async def test_the_pages_load_nothing_from_other_servers(front: Served) -> None:
    async with front.session.get(front.url + "/docs") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "//" not in page
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        async with front.session.get(front.url + path) as response:
            assert response.status == 200, path


async def test_the_api_page_follows_the_browsers_theme_and_has_an_icon(front: Served) -> None:
    async with front.session.get(front.url + "/static/docs.js") as response:
        assert "prefers-color-scheme: dark" in await response.text()
    async with front.session.get(front.url + "/favicon.ico") as response:
        assert (response.status, response.content_type) == (200, "image/svg+xml")


async def test_the_document_is_served(front: Served) -> None:
    status, document = await front.get("/openapi.json")
    assert status == 200
    assert document["openapi"] == "3.1.0"


@pytest.mark.parametrize("name", ["LICENSE", "docs.html", "..%2fapp.py", "remake.sh"])
async def test_no_other_file_is_served(front: Served, name: str) -> None:
    status, _ = await front.get(f"/static/{name}")
    assert status == 404
