"""JSON responses made from our structs."""

import msgspec
from aiohttp import web


def json_response(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )
