"""A small typed client of the HTTP API; the `wan` command is made from it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from broker.wire.protocol import ErrorCode
from http_front.video.schema import (
    MAX_LISTED,
    Cancelled,
    ErrorBody,
    ErrorDetail,
    JobList,
    JobStatus,
    JobUpdate,
    Submitted,
)

ANSWER_LIMIT_S = 60.0
"""How long an answer may take; of a video, each next part of it."""
UPLOAD_LIMIT_S = 120.0
"""How long the upload of an image may take, as long as the server waits for it."""
RECONNECT_LIMIT_S = 60.0
"""How long `watch` goes on trying when the server is away."""
_RECONNECT_EVERY_S = 0.5
_CHUNK_BYTES = 1 << 16

Answer = TypeVar("Answer")


class ClientError(Exception):
    """Base of what goes wrong between client and server."""


class RefusedError(ClientError):
    """Raised when the server refuses a request.

    Args:
        status: The HTTP status.
        detail: What the server says was wrong.
    """

    def __init__(self, status: int, detail: ErrorDetail) -> None:
        super().__init__(detail.message)
        self.status = status
        self.detail = detail


class UnreachableError(ClientError):
    """Raised when there is no answer from the server."""


class WanClient:
    """Speaks to one server; use it in `async with`.

    Args:
        server: Its URL.
        api_key: The key to show, where the server asks for one.
    """

    def __init__(self, server: str, api_key: str | None = None) -> None:
        self._server = server.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def submit(self, image: Path | str, fields: dict[str, object]) -> str:
        """Submit a job; return its id.

        Args:
            image: A file, or the URL that the server shall fetch.
            fields: Those of `JobSpec`, at least the prompt, and `priority`.
        """
        if isinstance(image, str):
            body = {**fields, "image_url": image}
            return (await self._post("/video/submit", Submitted, json=body)).requestId
        with image.open("rb") as file:
            form = aiohttp.FormData({name: _as_text(value) for name, value in fields.items()})
            form.add_field("image", file, filename=image.name)
            return (
                await self._post("/video/submit", Submitted, UPLOAD_LIMIT_S, data=form)
            ).requestId

    async def status(self, job_id: str) -> JobStatus:
        """Return how a job is."""
        return await self._post("/video/status", JobStatus, json={"requestId": job_id})

    async def jobs(self, limit: int, after: str | None = None) -> JobList:
        """Return the newest of the caller's jobs, page by page until there are enough.

        Args:
            limit: How many at most.
            after: Begin with the first that is older than this job.
        """
        found = JobList(jobs=[], has_more=True)
        while found.has_more and (left := limit - len(found.jobs)) > 0:
            query = {"limit": str(min(left, MAX_LISTED))} | ({"after": after} if after else {})
            page = await self._ask("GET", "/video/list", JobList, params=query)
            found = JobList(jobs=[*found.jobs, *page.jobs], has_more=page.has_more)
            after = found.jobs[-1].requestId if found.jobs else None
        return found

    async def cancel(self, job_id: str) -> None:
        """End a job."""
        await self._post("/video/cancel", Cancelled, json={"requestId": job_id})

    async def watch(self, job_id: str) -> AsyncGenerator[JobUpdate, None]:
        """Yield how a job is, then every change to its end, across restarts of the server."""
        seq = 0
        clock = asyncio.get_running_loop()
        give_up_at = clock.time() + RECONNECT_LIMIT_S
        while True:
            try:
                async with aclosing(self._connected(job_id, seq)) as updates:
                    async for update in updates:
                        seq = update.seq
                        give_up_at = clock.time() + RECONNECT_LIMIT_S
                        yield update
                        if update.status.is_terminal:
                            return
            except UnreachableError:
                if clock.time() > give_up_at:
                    raise
            await asyncio.sleep(_RECONNECT_EVERY_S)

    async def download(self, job_id: str, place: Path) -> None:
        """Write the video of a finished job to a file, which appears only when it is whole."""
        partial = place.with_name(f"{place.name}.part")
        limit = aiohttp.ClientTimeout(connect=ANSWER_LIMIT_S, sock_read=ANSWER_LIMIT_S)
        url = f"{self._server}/videos/{job_id}.mp4"
        try:
            async with self._session.get(url, timeout=limit) as response:
                await _raise_if_refused(response)
                with partial.open("wb") as file:
                    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                        file.write(chunk)
            partial.rename(place)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)

    async def _connected(self, job_id: str, last_seq: int) -> AsyncGenerator[JobUpdate, None]:
        """Yield the changes that one connection brings."""
        url = f"{self._server}/video/progress?requestId={job_id}&last_seq={last_seq}"
        try:
            async with self._session.ws_connect(url, heartbeat=20) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        yield _decode_update(message.data)
        except aiohttp.WSServerHandshakeError as error:
            # The refusal of a handshake has no body; the status route tells the reason.
            await self.status(job_id)
            raise self._unreachable(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _post(
        self, path: str, answer: type[Answer], upload_s: float = 0.0, **body: Any
    ) -> Answer:
        return await self._ask("POST", path, answer, upload_s, **body)

    async def _ask(
        self, method: str, path: str, answer: type[Answer], upload_s: float = 0.0, **more: Any
    ) -> Answer:
        """Return the answer to a request.

        Args:
            method: Of HTTP.
            path: Of the route.
            answer: What the server answers with.
            upload_s: How long sending the body may take, besides.
            more: What aiohttp takes for the request.
        """
        limit = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S + upload_s)
        url = self._server + path
        try:
            async with self._session.request(method, url, timeout=limit, **more) as response:
                await _raise_if_refused(response)
                return msgspec.json.decode(await response.read(), type=answer)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"no answer from {self._server} ({str(error) or type(error).__name__})"
        )


async def _raise_if_refused(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        detail = msgspec.json.decode(await response.read(), type=ErrorBody).error
    except msgspec.DecodeError:
        # Something between us and the server has answered.
        detail = ErrorDetail(code=ErrorCode.UNAVAILABLE, message=f"HTTP status {response.status}")
    raise RefusedError(response.status, detail)


def _decode_update(text: str) -> JobUpdate:
    try:
        return msgspec.json.decode(text, type=JobUpdate)
    except msgspec.ValidationError:
        # The other message there is: the server cannot go on, and says why.
        error = msgspec.json.decode(text, type=ErrorBody).error
        raise UnreachableError(error.message) from None


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
