"""The server is ready when `/health` says so, and not before."""

import asyncio

import pytest
from aiohttp import web

from launcher.readiness import wait_until_healthy


async def test_a_server_is_ready_once_health_says_200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # would refuse
    statuses = [503, 503, 200]
    app = web.Application()

    async def health(_request: web.Request) -> web.Response:
        return web.Response(status=statuses.pop(0))

    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.timeout(20):
            await wait_until_healthy(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
    assert statuses == []
