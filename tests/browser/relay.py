"""A proxy before the front."""

import contextlib
from collections.abc import AsyncIterator, MutableMapping

import aiohttp
from aiohttp import web

_CUT_BYTES = 9


@contextlib.asynccontextmanager
async def relay(
    target: str, prefix: str = "", lost: MutableMapping[str, int] | None = None
) -> AsyncIterator[int]:
    """Serve another server below a path; yield the port.

    Args:
        target: URL of the other server.
        prefix: The path.
        lost: How many answers are still to be lost on the way, by the path of the request.
    """
    lost = {} if lost is None else lost

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        url = target + request.path_qs.removeprefix(prefix)
        async with session.request(
            request.method, url, headers=headers, data=await request.read()
        ) as answer:
            kept = {"Content-Type", "Content-Security-Policy"} & answer.headers.keys()
            body, status = await answer.read(), answer.status
            found = {name: answer.headers[name] for name in kept}
        if lost.get(request.path, 0):
            lost[request.path] -= 1
            return await _cut(request, web.StreamResponse(status=status, headers=found))
        return web.Response(status=status, headers=found, body=body)

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", f"{prefix}/{{path:.*}}", answer)
    runner = web.AppRunner(app)
    async with aiohttp.ClientSession(auto_decompress=True) as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()


async def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection amid the answer: a browser repeats a request without any by itself."""
    response.content_length = _CUT_BYTES
    await response.prepare(request)
    await response.write(b"{")
    assert request.transport is not None
    request.transport.close()
    return response
