"""The rivals as processes: start them, wait until they are ready, and end all their processes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from tests.running_server import ROOT, until

START_LIMIT_S = 180.0
END_LIMIT_S = 5.0
NUM_RANKS = 8


@asynccontextmanager
async def fastapi_ranks(model: Path, folder: Path) -> AsyncIterator[tuple[str, float]]:
    """Run rival 1; yield its URL and the seconds until it was ready."""
    port = _free_port()
    begun = time.monotonic()
    torchrun = (
        *("torch.distributed.run", f"--nproc_per_node={NUM_RANKS}", "--standalone"),
        *("-m", "tests.bench.rivals.fastapi_ranks"),
        *("--model-path", str(model), "--port", str(port), "--folder", str(folder)),
    )
    with _process(folder / "ranks.log", sys.executable, "-m", *torchrun):
        url = f"http://127.0.0.1:{port}"
        await until(lambda: _answers(f"{url}/health"), START_LIMIT_S)
        yield url, time.monotonic() - begun


@asynccontextmanager
async def fastapi_celery_redis(folder: Path) -> AsyncIterator[str]:
    """Run rival 2, whose Redis syncs each write to disk; yield its URL."""
    redis_port, port = _free_port(), _free_port()
    environment = {"REDIS_URL": f"redis://127.0.0.1:{redis_port}/0"}
    module = "tests.bench.rivals.celery_app"
    redis = (
        *("redis-server", "--bind", "127.0.0.1", "--port", str(redis_port), "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    )
    worker = (
        *(sys.executable, "-W", "ignore", "-m", "celery", "--quiet", "-A", module, "worker"),
        *("--concurrency", "1", "--loglevel", "ERROR", "--without-gossip", "--without-mingle"),
    )
    front = (
        *(sys.executable, "-m", "uvicorn", f"{module}:api", "--port", str(port)),
        *("--log-level", "error", "--no-access-log"),
    )
    with _process(folder / "redis.log", *redis):
        await until(lambda: _listens(redis_port), START_LIMIT_S)
        with (
            _process(folder / "worker.log", *worker, **environment),
            _process(folder / "front.log", *front, **environment),
        ):
            await until(lambda: _listens(port), START_LIMIT_S)
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _process(log_path: Path, *command: str, **environment: str) -> Iterator[None]:
    """Run a command in a new session; kill the whole session at the end."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_LIMIT_S)
        _kill_session(process.pid)
        process.wait()


def _kill_session(session: int) -> None:
    """Kill all processes of a session, including other process groups in it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
