"""The WebSocket route that sends a job's progress."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from socket import SO_SNDBUF, SOL_SOCKET

import msgspec
from aiohttp import WSCloseCode, web

from broker.wire.errors import ErrorCode
from broker.wire.job_view import JobView
from broker.wire.requests import GetJob
from http_front.access.key_guard import PROTOCOL, caller, owner, until_removed
from http_front.access.keys import ApiKey
from http_front.errors import ErrorBody, ErrorDetail, FrontError
from http_front.job_ids import use_job_id
from http_front.state import FRONT, Front
from http_front.video.job_status import MAX_SEQ

MAX_SOCKETS = 256
SEND_LIMIT_S = 10.0
CATCH_UP_LIMIT_S = 1.0
BUFFER_BYTES = 1 << 14
"""Buffer for a client that reads slowly: this much in the process and as much in the kernel."""


async def progress(request: web.Request) -> web.WebSocketResponse:
    front = request.app[FRONT]
    job_id, last_seq, with_previews = _checked_query(request)
    socket = web.WebSocketResponse(
        heartbeat=20,
        max_msg_size=4096,
        compress=False,
        timeout=5,
        writer_limit=BUFFER_BYTES,
        protocols=[PROTOCOL],
    )
    _check_protocol(request)
    if not socket.can_prepare(request):
        raise FrontError(ErrorCode.INVALID_BODY, "this route accepts only WebSockets")
    with _reserve_socket(front, caller(request)):
        # Raises 404 while a normal response is still possible.
        found = await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
        profile = await front.models.profile_of(found.job.spec)
        _bound_buffers(request)
        await socket.prepare(request)
        front.sockets.add(socket)
        try:
            changes = front.feed.watch(job_id, last_seq, owner(request))
            text_of = partial(front.updates.of, spec=found.job.spec, profile=profile)
            updates = _texts(changes, text_of)
            previews = front.previews.watch(job_id) if with_previews else None
            code = await _serve(request, socket, updates, previews)
            if code is None:
                _abort(request)
            else:
                await socket.close(code=code)
        finally:
            front.sockets.discard(socket)
    return socket


async def close_all(app: web.Application) -> None:
    """Send the last changes, such as the end of a drained job, then close every WebSocket."""
    front = app[FRONT]
    with suppress(TimeoutError):
        async with asyncio.timeout(CATCH_UP_LIMIT_S):
            await front.feed.catch_up()
    closing = [
        socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server is stopping")
        for socket in front.sockets
    ]
    await asyncio.gather(*closing)


@contextmanager
def _reserve_socket(front: Front, key: ApiKey | None) -> Iterator[None]:
    """Count one more open WebSocket for the key.

    Raises:
        FrontError: If the server or the key has too many open already.
    """
    name = None if key is None else key.name
    num_open = front.num_watchers.total()
    if num_open >= MAX_SOCKETS:
        message = f"{num_open} WebSockets are open on this server, the maximum; try again later"
        raise FrontError(ErrorCode.UNAVAILABLE, message, retry_after_s=10)
    if key is not None and front.num_watchers[name] >= key.limits.websockets:
        message = (
            f"{front.num_watchers[name]} WebSockets are open with this key; "
            f"at most {key.limits.websockets} are allowed"
        )
        raise FrontError(ErrorCode.RATE_LIMITED, message, retry_after_s=10)
    front.num_watchers[name] += 1
    try:
        yield
    finally:
        front.num_watchers[name] -= 1


async def _serve(
    request: web.Request,
    socket: web.WebSocketResponse,
    updates: AsyncGenerator[str, None],
    previews: AsyncGenerator[bytes, None] | None,
) -> int | None:
    """Send changes until the job ends, the client leaves, or its key is removed.

    Returns:
        The close code; None if the client is gone or too slow to read a close message.
    """
    sender = asyncio.create_task(_send_updates(socket, updates))
    removal = asyncio.create_task(until_removed(request))
    ends = {sender, removal, asyncio.create_task(_listen(socket))}
    tasks = {*ends}
    if previews is not None:
        tasks.add(asyncio.create_task(_send_previews(socket, previews)))
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.wait(tasks)
    if not removal.cancelled():
        return WSCloseCode.POLICY_VIOLATION
    return WSCloseCode.OK if sender.cancelled() else sender.result()


async def _texts(
    changes: AsyncGenerator[JobView, None], text_of: Callable[[JobView], str]
) -> AsyncGenerator[str, None]:
    async with aclosing(changes):
        async for job in changes:
            yield text_of(job)


async def _send_updates(
    socket: web.WebSocketResponse, updates: AsyncGenerator[str, None]
) -> int | None:
    try:
        async with aclosing(updates):
            async for update in updates:
                await _send(socket, update)
    except FrontError as error:
        return await _send_last(socket, error)
    except (TimeoutError, ConnectionError):  # the client reads too slowly or is gone
        return None
    return WSCloseCode.OK


async def _send_previews(
    socket: web.WebSocketResponse, previews: AsyncGenerator[bytes, None]
) -> None:
    with suppress(TimeoutError, ConnectionError):  # _send_updates fails too and ends the socket
        async with aclosing(previews):
            async for picture in previews:
                async with asyncio.timeout(SEND_LIMIT_S):
                    await socket.send_bytes(picture)


async def _send_last(socket: web.WebSocketResponse, error: FrontError) -> int | None:
    detail = ErrorDetail(code=error.code, message=error.message, field=error.field)
    try:
        await _send(socket, msgspec.json.encode(ErrorBody(error=detail)).decode())
    except (TimeoutError, ConnectionError):
        return None
    return WSCloseCode.TRY_AGAIN_LATER


async def _send(socket: web.WebSocketResponse, text: str) -> None:
    async with asyncio.timeout(SEND_LIMIT_S):
        await socket.send_str(text)


def _bound_buffers(request: web.Request) -> None:
    """Keep transport and kernel from buffering megabytes for a client that does not read."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(SOL_SOCKET, SO_SNDBUF, BUFFER_BYTES)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _listen(socket: web.WebSocketResponse) -> None:
    """Wait until the client closes the socket; its messages are ignored."""
    async for _ in socket:
        pass


def _check_protocol(request: web.Request) -> None:
    """Refuse unknown subprotocols before aiohttp logs them: one of them may be an API key."""
    offered = request.headers.get("Sec-WebSocket-Protocol")
    if offered is not None and PROTOCOL not in map(str.strip, offered.split(",")):
        message = f"Sec-WebSocket-Protocol must offer {PROTOCOL}"
        raise FrontError(ErrorCode.INVALID_BODY, message)


def _checked_query(request: web.Request) -> tuple[str, int, bool]:
    job_id = use_job_id(request.query.get("requestId", ""))
    last_seq = request.query.get("last_seq", "0")
    # Check the length first: int() is slow for very long numbers, and then raises.
    is_number = last_seq.isascii() and last_seq.isdigit() and len(last_seq) <= 16
    if not (is_number and int(last_seq) <= MAX_SEQ):
        raise FrontError(
            ErrorCode.INVALID_FIELD,
            f"last_seq must be a whole number from 0 to {MAX_SEQ}",
            "last_seq",
        )
    previews = request.query.get("previews", "0")
    if previews not in ("0", "1"):
        raise FrontError(ErrorCode.INVALID_FIELD, "previews must be 0 or 1", "previews")
    return job_id, int(last_seq), previews == "1"
