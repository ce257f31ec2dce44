"""The server under test: all of the product but the ranks, and lives of it one after the other."""

import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from ranks.model_folder import COMPONENTS, WEIGHTED
from tests.chaos.ledger import Ledger
from tests.chaos.stub_settings import Faults, StubSettings
from tests.running_server import RunningServer


class ChaosServer:
    """A state directory and the launcher that works in it, which may be killed and started anew.

    Args:
        folder: Empty; holds the state, the ledger and the faults.
        groups: Groups of ranks.
        nproc: Ranks of each.
        step_timeout, max_queue: As for the launcher.
        flags: Further options of the launcher.
        device: Kind of the ranks' devices.
        environment: Added to the environment of the server.
        settings: Changes of `StubSettings`.
    """

    def __init__(
        self,
        folder: Path,
        groups: int = 1,
        nproc: int = 8,
        step_timeout: float = 60.0,
        max_queue: int = 1000,
        flags: Sequence[str] = (),
        device: str = "cpu",
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        told = {"folder": str(folder), **settings}
        self.settings = msgspec.convert(told, StubSettings)
        self.state_dir = folder / "state"
        self.ledger = Ledger(self.settings.ledger)
        self.faults = Faults(folder)
        self.is_real = self.settings.ranks_module == "ranks"
        self._environment = environment
        self._flags = [
            *("--device", device),
            *(["--demo"] if self.is_real else ["--model-path", str(_model(folder))]),
            *("--groups", str(groups), "--nproc", str(nproc)),
            *("--step-timeout", str(step_timeout), "--max-queue", str(max_queue)),
            *flags,
        ]
        self._life: RunningServer | None = None

    @property
    def life(self) -> RunningServer:
        """The launcher that runs now."""
        assert self._life is not None, "not started"
        return self._life

    async def start(self) -> None:
        """Start a launcher; return when jobs are served."""
        self.spawn()
        await self.life.wait_until_ready()

    def spawn(self) -> None:
        """Start a launcher and wait for nothing."""
        command = ["-m", "tests.chaos.launch", msgspec.json.encode(self.settings).decode()]
        self._life = RunningServer(
            self.state_dir,
            *("--port", "0", *self._flags),
            command=command,
            environment=self._environment,
        )

    def pid_of(self, part: str) -> int | None:
        """Return the pid of `broker` or `front`; None while there is none."""
        pids = self.life.pids(f"-m\0{part}\0")
        return pids[0] if pids else None

    def kill(self, *pids: int | None) -> None:
        """End processes as a crash does."""
        for pid in pids:
            if pid is not None:
                _send(pid, signal.SIGKILL)

    async def kill_launcher(self) -> None:
        """End the launcher as a crash does, and wait until all it had started has gone, too."""
        self.kill(self.life.process.pid)
        self.life.process.wait()
        await self.life.wait_until_gone(5.0)

    async def until_healthy(self) -> None:
        """Wait until the server serves jobs again."""
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
        """Leave nothing running."""
        if self._life is not None:
            self._life.end()


@asynccontextmanager
async def chaos_server(folder: Path, **settings: Any) -> AsyncIterator[ChaosServer]:
    """Start a server, wait until it serves jobs, and leave nothing behind."""
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


def _model(folder: Path) -> Path:
    """Make a folder that passes for a model: the names of its files are all that is looked at."""
    model = folder / "model"
    names = [f"{part}/{name}" for part, files in COMPONENTS.items() for name in files]
    for part in WEIGHTED:
        stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
        names.append(f"{part}/{stem}.safetensors")
    for name in ("model_index.json", *names):
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (model / "transformer" / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
    return model
