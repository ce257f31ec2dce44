import logging
import os
from pathlib import Path
from typing import Any

import pytest

from broker.wire.replies import HealthFound
from http_front.images.spool import prepare_folder
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, send_raw, serve


async def test_the_log_of_requests_holds_no_query_and_no_header(
    tmp_path: Path, broker: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        serve(tmp_path, broker.addresses, access_log="all") as front,
        front.session.get(
            front.url + "/live?token=hidden", headers={"Authorization": "Bearer hidden"}
        ) as response,
    ):
        assert response.status == 200
    assert "GET /live 200" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(
    ("access_log", "logged"),
    [
        ("off", []),
        ("errors", ["/nothing 404"]),
        ("all", ["/live 200", "/health 503", "/nothing 404"]),
    ],
)
async def test_the_operator_says_which_requests_have_a_log_line(
    tmp_path: Path,
    broker: ScriptedBroker,
    caplog: pytest.LogCaptureFixture,
    access_log: str,
    logged: list[str],
) -> None:
    caplog.set_level(logging.INFO, "aiohttp.access")
    broker.health = HealthFound(ready=False, draining=False, queued=0, running=0, groups=[])
    async with serve(tmp_path, broker.addresses, access_log=access_log) as front:
        for path in ("/live", "/health", "/nothing"):
            async with front.session.get(front.url + path):
                pass
    lines = [line for line in caplog.text.splitlines() if "GET" in line]
    assert [any(words in line for words in logged) for line in lines] == [True] * len(logged)


async def test_every_response_has_the_security_headers(front: Served) -> None:
    for path in ("/live", "/health", "/nothing", "/openapi.json", f"/videos/{'0' * 32}.mp4"):
        async with front.session.get(front.url + path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({"host": "0.0.0.0"}, "any.example", 200),
        ({"host": "0.0.0.0", "allowed_hosts": ("wan.example",)}, "wan.example:80", 200),
        ({"host": "0.0.0.0", "allowed_hosts": ("wan.example",)}, "any.example", 403),
        ({"allowed_hosts": ("wan.example",)}, "localhost", 200),
        ({"allowed_hosts": ("Wan.Example",)}, "wan.example", 200),
    ],
)
async def test_the_allowed_host_names_depend_on_the_listening_address(
    tmp_path: Path,
    broker: ScriptedBroker,
    settings: dict[str, Any],
    host: str,
    status: int,
) -> None:
    async with serve(tmp_path, broker.addresses, **settings) as front:
        head = f"GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = await send_raw(front.port, head.encode())
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_a_server_fault_is_logged_and_answered_with_500_without_internals(
    front: Served, broker: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    # A reply of the wrong type violates an assertion.
    broker.script = lambda _request: broker.health
    status, answer = await front.post("/video/status", {"requestId": "0" * 32})
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "Assertion" not in str(answer)
    assert "AssertionError" in caplog.text


def test_old_files_of_a_killed_front_are_removed_and_new_files_are_kept(
    tmp_path: Path,
) -> None:
    old, new = (f"{digit * 32}.upload" for digit in "01")
    for name, age_s in ((old, 7200), (new, 0)):
        (tmp_path / name).write_bytes(b"x")
        stamp = (tmp_path / name).stat().st_mtime - age_s
        os.utime(tmp_path / name, (stamp, stamp))
    prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [new]
