"""A whole server under test, `launch.py --demo` as a process, and a client for it."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent


DEMO = ("launch.py", "--demo", "--device", "cpu", "--port", "0")
SAMPLE = ROOT / "docs" / "sample.jpg"
START_LIMIT_S = 120.0
JOB_LIMIT_S = 120.0

SMALL_JOB = {
    "prompt": "A small boat drifts over a calm bay",
    "image_size": "128*128",
    "num_frames": "24",
    "infer_steps": "20",
    "seed": "7",
}


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Poll a condition that sends no event, such as the state of files or other processes."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 (there is no event to await)
            await asyncio.sleep(0.05)


class RunningServer:
    """A launcher process and all processes that it starts.

    Args:
        state_dir: Of the server.
        flags: Added to the command.
        command: What Python runs.
        environment: Added to the environment of the server.
        cwd: Its working directory.
    """

    def __init__(
        self,
        state_dir: Path,
        *flags: str,
        command: Sequence[str] = DEMO,
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self._mark = f"TEST_MARK={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.log_path = state_dir.parent / f"{state_dir.name}-{value}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--state-dir", str(state_dir), *flags],
                cwd=cwd,
                env=os.environ | dict(environment or {}) | {name: value},
                stderr=log,
            )
        self.started = time.monotonic()
        self.url = ""

    def log(self) -> str:
        return self.log_path.read_text()

    async def wait_until_logged(self, text: str, limit_s: float = START_LIMIT_S) -> str:
        """Return the first log line that contains a text."""
        async with asyncio.timeout(limit_s):
            while True:
                for line in self.log().splitlines():
                    if text in line:
                        return line
                assert self.process.poll() is None, self.log()
                await asyncio.sleep(0.05)

    async def wait_until_ready(self, limit_s: float = START_LIMIT_S) -> float:
        """Wait until the server is ready; return the seconds since its start."""
        line = await self.wait_until_logged(" launcher ready after ", limit_s)
        self.url = line.split()[-1]
        return time.monotonic() - self.started

    def pids(self, command: str = "") -> list[int]:
        """Return the server's processes, found by a variable that all inherit.

        Args:
            command: Only those whose command line contains this text.
        """
        pids = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and self._mark.encode() in (entry / "environ").read_bytes()
                    and command.encode() in (entry / "cmdline").read_bytes()
                ):
                    pids.append(int(entry.name))
        return pids

    def processor_time_s(self, pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def wait_until_gone(self, limit_s: float) -> None:
        await until(lambda: not self.pids(), limit_s)

    async def stop(self, limit_s: float = 60.0) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, limit_s)

    def end(self) -> None:
        """Kill every process of the server."""
        self.process.kill()
        self.process.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def running_server(
    state_dir: Path,
    *flags: str,
    command: Sequence[str] = DEMO,
    environment: Mapping[str, str] | None = None,
    start_limit_s: float = START_LIMIT_S,
) -> AsyncIterator[RunningServer]:
    """Start a server and wait until it is ready; kill it at the end."""
    server = RunningServer(state_dir, *flags, command=command, environment=environment)
    try:
        await server.wait_until_ready(start_limit_s)
        yield server
    finally:
        server.end()


class Caller:
    """A client without the client library, so that tests see what is on the wire."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def submit(self, **fields: str) -> str:
        """Submit a job with the sample image; return its id."""
        return await self._submit(("image",), fields)

    async def submit_to_last_image(self, **fields: str) -> str:
        """Submit a job that begins and ends with the sample image; return its id."""
        return await self._submit(("image", "last_image"), fields)

    async def _submit(self, images: Sequence[str], fields: dict[str, str]) -> str:
        form = aiohttp.FormData(SMALL_JOB | fields)
        for name in images:
            form.add_field(name, SAMPLE.read_bytes(), filename="sample.jpg")
        async with self.session.post("/video/submit", data=form) as response:
            answer = await response.json()
            assert response.status == 202, answer
            return str(answer["requestId"])

    async def post(self, path: str, job_id: str) -> dict[str, Any]:
        """Post a job's id to a route; return the JSON answer."""
        async with self.session.post(path, json={"requestId": job_id}) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def status(self, job_id: str) -> dict[str, Any]:
        return await self.post("/video/status", job_id)

    async def wait_for(self, job_id: str, limit_s: float = JOB_LIMIT_S, **wanted: Any) -> Any:
        """Return the first event on a job's WebSocket whose fields have the wanted values."""
        event: dict[str, Any] = {}
        async with asyncio.timeout(limit_s):
            path = f"/video/progress?requestId={job_id}"
            async with self.session.ws_connect(path) as feed:
                async for message in feed:
                    event = message.json()
                    if all(event[name] == value for name, value in wanted.items()):
                        return event
        raise AssertionError(f"job {job_id} ended without {wanted}; last: {event}")


@contextlib.asynccontextmanager
async def calling(server: RunningServer) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(server.url) as session:
        yield Caller(session)
