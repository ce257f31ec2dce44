"""A front with a real broker and a group without torch, and the `wan` command on a terminal."""

import asyncio
import os
import pty
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from http_front.client.client import WanClient
from http_front.video.job_status import JobUpdate
from tests.broker.driver import BrokerProcess, broker_config, running_broker
from tests.http_front.serving import PROMPT, Served, picture, serve
from tests.stub_group import StubConfig, StubGroup

LIMIT_S = 20.0
WAN = (sys.executable, "-m", "launcher.wan")


@dataclass
class Stack:
    broker: BrokerProcess
    group: StubGroup
    front: Served
    client: WanClient
    image: Path

    async def wan(self, *words: str, **variables: str) -> tuple[int, str, str]:
        """Run the `wan` command; return exit code, stdout and stderr."""
        process = await start_wan(*words, "--server", self.front.url, **variables)
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def submit(self, prompt: str = PROMPT) -> str:
        return await self.client.submit(self.image, {"prompt": prompt})

    async def end_of(self, job_id: str) -> JobUpdate:
        """Watch a job to its end, check the order of its changes, and return the last one."""
        async with asyncio.timeout(LIMIT_S):
            updates = [update async for update in self.client.watch(job_id)]
        seqs = [update.seq for update in updates]
        assert seqs == sorted(set(seqs)), "a change came twice or out of order"
        progress = [update.progress for update in updates]
        assert progress == sorted(progress), "progress went back"
        return updates[-1]


@asynccontextmanager
async def open_stack(tmp_path: Path) -> AsyncIterator[Stack]:
    image = tmp_path / "cat.png"
    image.write_bytes(picture())
    # Not in tmp_path, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        folder = Path(state_dir)
        config = broker_config(folder)
        stub = StubConfig(addresses=config.addresses, videos_dir=str(folder / "videos"))
        async with (
            running_broker(config) as broker,
            StubGroup(stub) as group,
            serve(folder, config.addresses) as front,
            WanClient(front.url) as client,
        ):
            yield Stack(broker, group, front, client, image)


async def start_wan(*words: str, **variables: str) -> asyncio.subprocess.Process:
    """Start the `wan` command without input and without a terminal."""
    return await asyncio.create_subprocess_exec(
        *(*WAN, *words),
        env=os.environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


class Terminal:
    """The `wan` command on its own terminal, with methods to read and to type."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self._shown = b""

    async def __aenter__(self) -> Self:
        self._screen, inside = pty.openpty()
        self.process = await asyncio.create_subprocess_exec(
            *(*WAN, *self._words),
            preexec_fn=lambda: os.login_tty(inside),
            pass_fds=[inside],
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        )
        os.close(inside)
        self._has_output = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._screen, self._read)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._screen)
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._screen)

    @property
    def shown(self) -> str:
        """Everything shown on the terminal so far."""
        return self._shown.decode(errors="replace")

    async def until(self, text: str) -> None:
        """Wait until a text appears."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while text not in self.shown:
                    self._has_output.clear()
                    await self._has_output.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} does not appear: {self.shown}") from None

    def type(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C."""
        os.write(self._screen, keys.encode())

    async def end(self) -> int:
        """Wait until the command ends; return its exit code."""
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()

    def _read(self) -> None:
        try:
            self._shown += os.read(self._screen, 1 << 16)
        except OSError:  # the command has ended and closed its side of the terminal
            asyncio.get_running_loop().remove_reader(self._screen)
        self._has_output.set()
