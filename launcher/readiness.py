"""Waits until a server answers as a client would find it: `/health` says 200."""

import asyncio
import urllib.request

_ASK_EVERY_S = 0.2
_ANSWER_LIMIT_S = 5.0
# A proxy is for other machines; this server runs here.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


async def wait_until_healthy(url: str) -> None:
    while not await asyncio.to_thread(_is_healthy, url):  # noqa: ASYNC110 (it sends no event)
        await asyncio.sleep(_ASK_EVERY_S)


def _is_healthy(url: str) -> bool:
    try:
        with _opener.open(f"{url}/health", timeout=_ANSWER_LIMIT_S):
            return True
    except (OSError, ValueError):  # refused, too slow, or another status: all are OSError
        return False
