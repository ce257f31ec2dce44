"""The server under test: the whole product with stub ranks, which can be killed and restarted."""

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tests.chaos.ledger import Ledger
from tests.chaos.stub_settings import Faults, StubSettings
from tests.running_server import RunningServer
from tests.stub_model import make_stub_model


class ChaosServer:
    """A state directory and the launcher that runs on it.

    Args:
        folder: An empty folder for the state, the ledger and the faults.
        groups, nproc, step_timeout, max_queue: As for the launcher.
        models: Names under which groups serve the model, one group each; the launcher's own if
            there are none.
        flags: Further options of the launcher.
        device: Kind of the ranks' devices.
        environment: Added to the environment of the server.
        settings: Fields of `StubSettings`.
    """

    def __init__(
        self,
        folder: Path,
        groups: int = 1,
        nproc: int = 8,
        step_timeout: float = 60.0,
        max_queue: int = 1000,
        models: Sequence[str] = (),
        flags: Sequence[str] = (),
        device: str = "cpu",
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self.settings = msgspec.convert({"folder": str(folder), **settings}, StubSettings)
        self.state_dir = folder / "state"
        self.ledger = Ledger(self.settings.ledger)
        self.faults = Faults(folder)
        self.is_real = self.settings.ranks_module == "ranks"
        self._environment = environment
        self._flags = [
            *("--device", device),
            *(["--demo"] if self.is_real else _model_flags(folder / "model", models)),
            *("--groups", str(groups), "--nproc", str(nproc)),
            *("--step-timeout", str(step_timeout), "--max-queue", str(max_queue)),
            *flags,
        ]
        self._life: RunningServer | None = None

    @property
    def life(self) -> RunningServer:
        """The running launcher."""
        assert self._life is not None, "not started"
        return self._life

    async def start(self) -> None:
        """Start a launcher and wait until it is ready."""
        self.spawn()
        await self.life.wait_until_ready()

    def spawn(self) -> None:
        """Start a launcher without waiting."""
        command = ["-m", "tests.chaos.launch", msgspec.json.encode(self.settings).decode()]
        self._life = RunningServer(
            self.state_dir,
            *("--port", "0", *self._flags),
            command=command,
            environment=self._environment,
        )

    def pid_of(self, module: str) -> int | None:
        """Return the pid of a module, such as `broker`; None while it does not run."""
        pids = self.life.pids(f"-m\0{module}\0")
        return pids[0] if pids else None

    def kill(self, *pids: int | None) -> None:
        """Send SIGKILL, which ends a process like a crash."""
        for pid in pids:
            if pid is not None:
                _send(pid, signal.SIGKILL)

    async def kill_launcher(self) -> None:
        """Kill the launcher, and wait until every process that it started has ended."""
        self.kill(self.life.process.pid)
        self.life.process.wait()
        await self.life.wait_until_gone(5.0)

    async def until_healthy(self) -> None:
        async with aiohttp.ClientSession() as session:
            while not await self._is_healthy(session):
                assert self.life.process.poll() is None, self.life.log()

    async def _is_healthy(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.life.url}/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def end(self) -> None:
        if self._life is not None:
            self._life.end()


def _model_flags(folder: Path, names: Sequence[str]) -> list[str]:
    make_stub_model(folder, num_heads=8)
    if not names:
        return ["--model-path", str(folder)]
    return [part for name in names for part in ("--model", f"{name}={folder}@1")]


@asynccontextmanager
async def chaos_server(folder: Path, **settings: Any) -> AsyncIterator[ChaosServer]:
    """Start a server and wait until it is ready; kill it at the end."""
    server = ChaosServer(folder, **settings)
    try:
        await server.start()
        yield server
    finally:
        server.end()


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
