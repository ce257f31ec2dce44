"""A small typed client of the HTTP API. The `wan` command uses it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from broker.wire.errors import ErrorCode
from http_front.errors import ErrorBody, ErrorDetail
from http_front.openai.openai_schema import ModelList
from http_front.video.job_status import JobList, JobStatus, JobUpdate
from http_front.video.schema import MAX_LISTED, Cancelled, Deleted, Kept, Submitted

RESPONSE_LIMIT_S = 60.0
"""Time limit for a response; while a video is downloaded, for each part of it."""
UPLOAD_LIMIT_S = 120.0
"""Time limit for an image upload, the same as the server's."""
RECONNECT_LIMIT_S = 60.0
"""How long `watch` tries to reconnect, and `submit` to get its answer."""
IDEMPOTENCY_HEADER = "Idempotency-Key"
_GATEWAY_FAILURES = (502, 503, 504)
_RECONNECT_EVERY_S = 0.5
_CHUNK_BYTES = 1 << 16

Response = TypeVar("Response")


class ClientError(Exception):
    """Base class of the client's errors."""


class RefusedError(ClientError):
    """Raised when the server refuses a request.

    Args:
        status: The HTTP status.
        detail: The error from the server.
    """

    def __init__(self, status: int, detail: ErrorDetail) -> None:
        super().__init__(detail.message)
        self.status = status
        self.detail = detail


class UnreachableError(ClientError):
    """Raised when the server does not respond."""


class WanClient:
    """Client of one server; use it with `async with`.

    Args:
        server: URL of the server.
        api_key: API key, if the server requires one.
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

    async def submit(
        self,
        image: Path | str,
        fields: dict[str, object],
        idempotency_key: str | None = None,
        *,
        last_image: Path | str | None = None,
    ) -> str:
        """Submit a job as `request_job` does, and return its id."""
        answer = await self.request_job(image, fields, idempotency_key, last_image=last_image)
        return answer.requestId

    async def request_job(
        self,
        image: Path | str,
        fields: dict[str, object],
        idempotency_key: str | None = None,
        *,
        last_image: Path | str | None = None,
    ) -> Submitted:
        """Submit a job and return the answer. Submit again when the answer was lost.

        Args:
            image: A file to upload, or a URL for the server to fetch.
            fields: Fields of the job: `prompt` and any other field of `JobSpec`, and `priority`.
            idempotency_key: Calls with the same key make one job; None for a new key.
            last_image: The video's last frame, for models that take one.

        Raises:
            RefusedError: If the server refuses the job.
            UnreachableError: If no connection can be made, or no answer comes.
        """
        headers = {IDEMPOTENCY_HEADER: idempotency_key or secrets.token_hex(16)}
        images = {"image": image} | ({} if last_image is None else {"last_image": last_image})
        clock = asyncio.get_running_loop()
        give_up_at = None
        while True:
            try:
                return await self._submit_once(images, fields, headers)
            except UnreachableError as error:
                # Without a connection, the first try has had no effect.
                if give_up_at is None and isinstance(error.__cause__, aiohttp.ClientConnectorError):
                    raise
                give_up_at = give_up_at or clock.time() + RECONNECT_LIMIT_S
                if clock.time() > give_up_at:
                    raise
            await asyncio.sleep(_RECONNECT_EVERY_S)

    async def _submit_once(
        self, images: dict[str, Path | str], fields: dict[str, object], headers: dict[str, str]
    ) -> Submitted:
        urls = {f"{name}_url": image for name, image in images.items() if isinstance(image, str)}
        files = {name: image for name, image in images.items() if isinstance(image, Path)}
        body = {**fields, **urls}
        if not files:
            return await self._post("/video/submit", Submitted, json=body, headers=headers)
        with ExitStack() as opened:
            form = aiohttp.FormData({name: _as_text(value) for name, value in body.items()})
            for name, path in files.items():
                file = opened.enter_context(path.open("rb"))
                form.add_field(name, file, filename=path.name)
            return await self._post(
                "/video/submit", Submitted, UPLOAD_LIMIT_S, data=form, headers=headers
            )

    async def models(self) -> ModelList:
        """Return the models that jobs may name, with their ranges and defaults."""
        return await self._request("GET", "/v1/models", ModelList)

    async def status(self, job_id: str) -> JobStatus:
        return await self._post("/video/status", JobStatus, json={"requestId": job_id})

    async def jobs(self, limit: int, after: str | None = None) -> JobList:
        """Return the caller's newest jobs, fetched page by page.

        Args:
            limit: Maximum number of jobs.
            after: Return only jobs older than this one.
        """
        listed = JobList(jobs=[], has_more=True)
        while listed.has_more and (left := limit - len(listed.jobs)) > 0:
            query = {"limit": str(min(left, MAX_LISTED))} | ({"after": after} if after else {})
            page = await self._request("GET", "/video/list", JobList, params=query)
            listed = JobList(jobs=[*listed.jobs, *page.jobs], has_more=page.has_more)
            after = listed.jobs[-1].requestId if listed.jobs else None
        return listed

    async def cancel(self, job_id: str) -> None:
        await self._post("/video/cancel", Cancelled, json={"requestId": job_id})

    async def delete(self, job_id: str) -> None:
        """Delete a job and its files; one that has not ended is cancelled first."""
        await self._post("/video/delete", Deleted, json={"requestId": job_id})

    async def keep(self, job_id: str, keep: bool = True) -> Kept:
        """Keep a video whatever its age, or let it expire again."""
        return await self._post("/video/keep", Kept, json={"requestId": job_id, "keep": keep})

    async def watch(self, job_id: str) -> AsyncGenerator[JobUpdate, None]:
        """Yield the job as it is now, then every change until it ends.

        The watch reconnects when the server restarts.
        """
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

    async def download(self, job_id: str, path: Path) -> None:
        """Save the video of a finished job. The file appears only when it is complete."""
        partial = path.with_name(f"{path.name}.part")
        limit = aiohttp.ClientTimeout(connect=RESPONSE_LIMIT_S, sock_read=RESPONSE_LIMIT_S)
        url = f"{self._server}/videos/{job_id}.mp4"
        try:
            async with self._session.get(url, timeout=limit) as response:
                await _raise_if_refused(response)
                with partial.open("wb") as file:
                    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                        file.write(chunk)
            partial.rename(path)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)

    async def _connected(self, job_id: str, last_seq: int) -> AsyncGenerator[JobUpdate, None]:
        url = f"{self._server}/video/progress?requestId={job_id}&last_seq={last_seq}"
        try:
            async with self._session.ws_connect(url, heartbeat=20) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        yield _decode_update(message.data)
        except aiohttp.WSServerHandshakeError as error:
            # A refused handshake has no body, so let the status route raise the reason.
            await self.status(job_id)
            raise self._unreachable(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _post(
        self, path: str, response_type: type[Response], upload_s: float = 0.0, **body: Any
    ) -> Response:
        return await self._request("POST", path, response_type, upload_s, **body)

    async def _request(
        self,
        method: str,
        path: str,
        response_type: type[Response],
        upload_s: float = 0.0,
        **arguments: Any,
    ) -> Response:
        """Send a request and return the decoded response.

        Args:
            method: HTTP method.
            path: Path of the route.
            response_type: Type of the response body.
            upload_s: Additional time for sending the body.
            arguments: Further arguments of aiohttp's `request`.
        """
        limit = aiohttp.ClientTimeout(total=RESPONSE_LIMIT_S + upload_s)
        url = self._server + path
        try:
            async with self._session.request(method, url, timeout=limit, **arguments) as response:
                await _raise_if_refused(response)
                return msgspec.json.decode(await response.read(), type=response_type)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"no response from {self._server} ({str(error) or type(error).__name__})"
        )


async def _raise_if_refused(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        detail = msgspec.json.decode(await response.read(), type=ErrorBody).error
    except msgspec.DecodeError:
        # The response is not ours: it comes from a proxy or another server.
        if response.status in _GATEWAY_FAILURES:
            raise aiohttp.ClientPayloadError(f"HTTP status {response.status}") from None
        detail = ErrorDetail(code=ErrorCode.UNAVAILABLE, message=f"HTTP status {response.status}")
    raise RefusedError(response.status, detail)


def _decode_update(text: str) -> JobUpdate:
    try:
        return msgspec.json.decode(text, type=JobUpdate)
    except msgspec.ValidationError:
        # The only other message is an error, after which the server closes the connection.
        error = msgspec.json.decode(text, type=ErrorBody).error
        raise UnreachableError(error.message) from None


def _as_text(value: object) -> str:
    if isinstance(value, list | tuple):
        return msgspec.json.encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)
