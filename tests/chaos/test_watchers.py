"""Watchers that reconnect again and again miss no event and never see progress decrease."""

import random
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import WSMsgType

from broker.wire.job import JobState
from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer, chaos_server

NUM_CUTS = 200
CUTS_PER_FRONT = 20
"""Every so many disconnects, the front is killed as well."""
SEED = 7


class Watcher:
    """Watches jobs to their end; it disconnects at random and sometimes kills the front."""

    def __init__(self, server: ChaosServer, session: aiohttp.ClientSession) -> None:
        self.num_cuts = 0
        self._random = random.Random(SEED)
        self._server = server
        self._session = session

    async def watch(self, job_id: str) -> list[dict[str, Any]]:
        """Return all events of a job, over all connections."""
        events: list[dict[str, Any]] = []
        while not (events and JobState(events[-1]["status"]).is_terminal):
            last_seq = events[-1]["seq"] if events else 0
            events += await self._read_some(job_id, last_seq)
            self.num_cuts += 1
            if self.num_cuts % CUTS_PER_FRONT == 0:
                self._server.kill(self._server.pid_of("http_front"))
        return events

    async def _read_some(self, job_id: str, last_seq: int) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        wanted = self._random.randrange(8)
        path = f"{self._server.life.url}/video/progress?requestId={job_id}&last_seq={last_seq}"
        try:
            async with self._session.ws_connect(path) as feed:
                while len(events) < wanted and not feed.closed:
                    message = await feed.receive()
                    if message.type is WSMsgType.TEXT:
                        events.append(message.json())
        except aiohttp.ClientError:  # the front is dead
            self.num_cuts -= 1
        return events


async def test_a_watcher_that_disconnects_two_hundred_times_misses_nothing(tmp_path: Path) -> None:
    async with (
        chaos_server(tmp_path, num_steps=80) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, Witness())
        client.url = server.life.url
        watcher = Watcher(server, session)
        while watcher.num_cuts < NUM_CUTS:
            events = await watcher.watch(await client.submit() or "")
            assert events[-1]["status"] == "Succeed"
            seqs = [change["seq"] for change in events]
            assert seqs == list(range(1, seqs[-1] + 1))
            progress = [change["progress"] for change in events]
            assert progress == sorted(progress)
