"""A client that records the answers it receives, for the checker."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
from PIL import Image

from broker.wire.job import JobState

ANSWER_LIMIT_S = 15.0
JOB_LIMIT_S = 90.0
_FIELDS = {"prompt": "A small boat drifts over a calm bay", "image_size": "64*64"}


@dataclass
class Witness:
    """Answers that the server must not contradict later."""

    accepted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    """Jobs whose cancellation was answered with 200."""
    ended: dict[str, str] = field(default_factory=dict)
    """Terminal states in the server's answers, by job."""
    num_without_retry_after: int = 0
    """Answers 429 and 503 without `Retry-After`."""
    answers: Counter[str] = field(default_factory=Counter)


class Client:
    """Submits and cancels jobs and reads their states; it records a missing answer."""

    def __init__(self, session: aiohttp.ClientSession, witness: Witness) -> None:
        self._session = session
        self._witness = witness
        self.url = ""

    async def submit(self, **fields: str) -> str | None:
        """Submit a job; return its id, or None if it was not accepted."""
        form = aiohttp.FormData(_FIELDS | fields)
        form.add_field("image", _PICTURE, filename="image.png")
        answer = await self._post("/video/submit", data=form)
        if answer is None:
            return None
        job_id = str(answer["requestId"])
        self._witness.accepted.append(job_id)
        return job_id

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job; return whether the server has confirmed it."""
        answer = await self._post("/video/cancel", json={"requestId": job_id})
        if answer is not None:
            assert answer == {"status": "Cancelled"}
            self._witness.cancelled.append(job_id)
        return answer is not None

    async def status(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's status; None without an answer."""
        answer = await self._post("/video/status", json={"requestId": job_id})
        if answer is not None and JobState(answer["status"]).is_terminal:
            state = self._witness.ended.setdefault(job_id, answer["status"])
            assert state == answer["status"], f"{job_id} was {state}, is {answer['status']}"
        return answer

    async def until_ended(self, job_id: str | None) -> dict[str, Any]:
        """Wait until a job has ended; return its status."""
        assert job_id is not None, "the job was not accepted"
        async with asyncio.timeout(JOB_LIMIT_S):
            while True:
                answer = await self.status(job_id)
                if answer is not None and JobState(answer["status"]).is_terminal:
                    return answer
                # Polled, because the server may be killed at any time and a WebSocket with it.
                await asyncio.sleep(0.05)

    async def _post(self, path: str, **body: Any) -> dict[str, Any] | None:
        try:
            limit = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)
            async with self._session.post(self.url + path, timeout=limit, **body) as response:
                answer: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError):
            self._witness.answers[f"{path} unanswered"] += 1
            return None
        self._witness.answers[f"{path} {response.status}"] += 1
        if response.status in (429, 503) and "Retry-After" not in response.headers:
            self._witness.num_without_retry_after += 1
        assert response.status in (200, 202, 409, 429, 503), answer
        return answer if response.status in (200, 202) else None


def _picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    return file.getvalue()


_PICTURE = _picture()
