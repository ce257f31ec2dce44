"""Follows a walkthrough: runs its commands in a copy of the project's folder."""

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.docs.markdown import DOCS, Block, blocks
from tests.running_server import ROOT

WALKTHROUGHS = DOCS / "walkthroughs"
_PORT = 8088
"""That of the documents; another one is taken here."""
_PARTS = ("broker", "docs", "http_front", "launcher", "ranks", "tests", "launch.py")
_BUILD = ("Makefile", "pyproject.toml", "constraints.txt")
STEP_LIMIT_S = 300.0


class Reader:
    """A shell in the folder, which keeps its variables from one block to the next."""

    def __init__(self, shell: asyncio.subprocess.Process, folder: Path, port: int) -> None:
        self._shell = shell
        self._folder = folder
        self._port = str(port)

    async def follow(self, document: Path) -> None:
        """Do all that a document says."""
        await self.do(blocks(document))

    async def do(self, steps: Iterable[Block]) -> None:
        """Save the programs, run the commands; what they show must be what the document shows."""
        shown = ""
        for step in steps:
            text = step.text.replace(str(_PORT), self._port)
            match step.language:
                case "python":
                    name = text.partition("\n")[0].removeprefix("# ")
                    (self._folder / name).write_text(text)
                case "bash":
                    shown = await self._run(text)
                case "text":
                    check_shown(text, shown)
                case other:
                    raise AssertionError(f"no rule for a block of {other!r}")

    async def _run(self, commands: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        mark = f"done {secrets.token_hex(8)}\n"
        self._shell.stdin.write(f"{{\n{commands}}} < /dev/null\nprintf '{mark[:-1]}\\n'\n".encode())
        try:
            async with asyncio.timeout(STEP_LIMIT_S):
                shown = await self._shell.stdout.readuntil(mark.encode())
        except asyncio.IncompleteReadError as error:
            raise AssertionError(f"{commands}\nhas failed:\n{error.partial.decode()}") from error
        except TimeoutError as error:
            log = self._folder / "server.log"
            said = log.read_text() if log.exists() else "nothing"
            raise AssertionError(f"{commands}\ntakes too long; the server said:\n{said}") from error
        return shown.decode().removesuffix(mark)


@asynccontextmanager
async def reading(folder: Path, port: int) -> AsyncIterator[Reader]:
    """Open a shell in a copy of the project; when it closes, nothing may be left running.

    The shell ends at the first command that fails.
    """
    copy_project(folder)
    taken = {"WAN_PORT": str(port), "DEMO_PORT": str(port)}
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail"),
        cwd=folder,
        env=os.environ | taken | {"WAN_SERVER": f"http://127.0.0.1:{port}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=1 << 20,
    )
    try:
        yield Reader(shell, folder, port)
        assert shell.stdin is not None
        shell.stdin.close()
        assert await shell.wait() == 0
        assert not _is_any_left(shell.pid), "a process that the document started still runs"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        await shell.wait()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def copy_project(folder: Path) -> None:
    """Copy what a reader has after `make install`."""
    for name in _PARTS:
        source = ROOT / name
        if source.is_dir():
            leave_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=leave_out)
        else:
            shutil.copy2(source, folder / name)
    for name in _BUILD:
        shutil.copy2(ROOT / name, folder / name)
    # An environment of its own to make, but every package in it is that of the tests.
    environment = folder / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith("."):
            (environment / entry.name).symlink_to(entry)
    (environment / ".installed").touch()


def check_shown(expected: str, shown: str) -> None:
    """Check that lines were shown, in this order; `…` stands for anything within a line."""
    rest = iter(shown.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))) + r"\s*")
        assert any(pattern.fullmatch(found) for found in rest), f"{line!r} was not shown:\n{shown}"


def _is_any_left(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True
