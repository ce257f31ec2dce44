"""The clients of the soak: each job has one of three fates, and its watcher may vanish."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO
from socket import SHUT_RDWR
from typing import Any

import aiohttp
from aiohttp import WSMsgType
from PIL import Image

from broker.wire.job import JobState

ANSWER_LIMIT_S = 15.0
JOB_LIMIT_S = 120.0
_FATES = ("cancel", "delete", "watch")
"""`delete`: as soon as it has ended; `watch`: follow it to the end, then fetch the video."""


class Load:
    """Clients that submit jobs at a steady rate.

    Args:
        urls: Of fronts of one server, used in turn.
        jobs_per_minute: Rate of the submits.
        fields: Of every submit.
        seed: Of the random choices.
        num_pictures: Number of different pictures, used in turn.
    """

    def __init__(
        self,
        urls: list[str],
        jobs_per_minute: float,
        fields: dict[str, str],
        seed: int,
        num_pictures: int,
    ) -> None:
        self.answers: Counter[str] = Counter()
        """By route and status; `cut`: the front was down."""
        self.num_vanished = 0
        self.num_slow = 0
        """Jobs that did not end within the limit."""
        self._urls = urls
        self._pause_s = 60.0 / jobs_per_minute
        self._fields = fields
        self._random = random.Random(seed)
        self._num_pictures = num_pictures
        self._number = 0

    @property
    def num_jobs(self) -> int:
        return self._number

    @property
    def summary(self) -> str:
        return (
            f"{self._number} jobs, {self.num_vanished} watchers vanished, {self.num_slow} jobs did "
            f"not end in {JOB_LIMIT_S:g} s; {dict(sorted(self.answers.items()))}"
        )

    async def run(self) -> None:
        """Submit jobs until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        # No connection outlives its request, so that none waits for a front that was ended.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tg:
            while True:
                url = self._urls[self._number % len(self._urls)]
                tg.create_task(self._job(session, url, _FATES[self._number % 3], self._number))
                self._number += 1
                due_s += self._pause_s
                await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def _job(self, session: aiohttp.ClientSession, url: str, fate: str, number: int) -> None:
        form = aiohttp.FormData(self._fields)
        form.add_field("image", _picture(number % self._num_pictures), filename="image.png")
        answer = await self._ask(session, url, "POST", "/video/submit", data=form)
        if answer is None:
            return
        job = {"requestId": str(answer["requestId"])}
        if fate == "cancel":
            await asyncio.sleep(self._random.uniform(0.0, 1.0))
            await self._ask(session, url, "POST", "/video/cancel", json=job)
        if self._random.random() < 0.5:
            await self._vanish(session, url, job["requestId"])
        try:
            async with asyncio.timeout(JOB_LIMIT_S):
                await self._follow(session, url, job["requestId"])
        except TimeoutError:
            self.num_slow += 1
        if fate == "delete":
            await self._ask(session, url, "POST", "/video/delete", json=job)
        elif fate == "watch":
            await self._ask(session, url, "GET", f"/videos/{job['requestId']}.mp4")

    async def _vanish(self, session: aiohttp.ClientSession, url: str, job_id: str) -> None:
        """Watch a job for a moment, then disappear, as a client that is killed."""
        with suppress(aiohttp.ClientError, OSError):
            async with session.ws_connect(_progress(url, job_id)) as feed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._random.uniform(0.0, 1.0)):
                        while (await feed.receive()).type is WSMsgType.TEXT:
                            pass
                if (connection := feed.get_extra_info("socket")) is not None:
                    connection.shutdown(SHUT_RDWR)
                    self.num_vanished += 1

    async def _follow(self, session: aiohttp.ClientSession, url: str, job_id: str) -> None:
        while True:
            try:
                async with session.ws_connect(_progress(url, job_id)) as feed:
                    async for message in feed:
                        status = message.json().get("status")  # an error has none
                        if status is not None and JobState(status).is_terminal:
                            return
            except aiohttp.WSServerHandshakeError as error:
                if error.status == HTTPStatus.NOT_FOUND:  # it has ended and expired
                    return
            except aiohttp.ClientError:
                pass
            # The front is being restarted.
            await asyncio.sleep(0.5)

    async def _ask(
        self, session: aiohttp.ClientSession, url: str, method: str, path: str, **body: Any
    ) -> dict[str, Any] | None:
        route = path if path.startswith("/video/") else "/videos/"
        limit = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)
        try:
            async with session.request(method, url + path, timeout=limit, **body) as response:
                await response.read()
                self.answers[f"{route} {response.status}"] += 1
                if response.content_type != "application/json" or response.status >= 300:
                    return None
                answer: dict[str, Any] = await response.json()
                return answer
        except (aiohttp.ClientError, TimeoutError):
            self.answers[f"{route} cut"] += 1
            return None


def _progress(url: str, job_id: str) -> str:
    return f"{url}/video/progress?requestId={job_id}"


def _picture(number: int) -> bytes:
    file = BytesIO()
    colour = (number % 256, number // 256, 0)
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()
