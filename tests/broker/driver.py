"""Broker processes for tests, and a client that speaks to them as a front does."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
import zmq
import zmq.asyncio

from broker.config import BrokerConfig
from broker.dispatch.policy import DispatchPolicy
from broker.wire.events import job_events
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobSpec, JobState
from broker.wire.job_view import JobView
from broker.wire.replies import FrontReply, HealthFound, JobFound, front_replies
from broker.wire.requests import FrontRequest, GetHealth, GetJob, SubmitJob, front_requests
from broker.wire.sockets import Addresses, connect_dealer, connect_sub

SHAPE = GroupShape(world_size=8, num_heads=8)
SPEC = JobSpec(prompt="a cat walks over the grass", image_size="128*128", infer_steps=20)
IMAGE = f"{0:064x}.ppm"
LIMIT_S = 20.0


def new_job_id() -> str:
    return secrets.token_hex(16)


POLICY = DispatchPolicy(shapes=(SHAPE,), max_queue=100, job_ttl_s=3600.0, retry_pauses_s=(0.0, 0.0))


def broker_config(state_dir: Path, **changes: object) -> BrokerConfig:
    """Return a broker's config; `changes` are fields of it or of its policy."""
    run_dir = state_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = BrokerConfig(
        state_dir=str(state_dir),
        addresses=Addresses.in_folder(run_dir),
        policy=POLICY,
        parent_pid=os.getpid(),
    )
    return changed_config(config, **changes)


def changed_config(config: BrokerConfig, **changes: object) -> BrokerConfig:
    limits = {name: changes.pop(name) for name in DispatchPolicy.__struct_fields__ & changes.keys()}
    policy = msgspec.structs.replace(config.policy, **limits)
    return msgspec.structs.replace(config, policy=policy, **changes)


class BrokerProcess:
    """A broker started as the launcher does: `python -m broker` with a pipe for `ready`."""

    def __init__(self, config: BrokerConfig, module: str = "broker", *arguments: str) -> None:
        self.config = config
        self._module = module
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.log: IO[bytes] | None = None
        """Receives the log from the next start on; None is the test's own stderr."""

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "not started"
        return self._process

    async def start(self) -> None:
        """Start the broker and wait until it is ready."""
        listen_fd, ready_fd = os.pipe()
        try:
            await self.spawn(ready_fd)
            os.close(ready_fd)
            line = await asyncio.wait_for(asyncio.to_thread(os.read, listen_fd, 6), LIMIT_S)
            assert line == b"ready\n", f"the broker ended with {await self.process.wait()}"
        finally:
            os.close(listen_fd)

    async def spawn(self, ready_fd: int | None = None) -> None:
        """Start the broker without waiting for it."""
        config = msgspec.structs.replace(self.config, ready_fd=ready_fd)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            msgspec.json.encode(config).decode(),
            *self._arguments,
            pass_fds=() if ready_fd is None else (ready_fd,),
            stderr=asyncio.subprocess.PIPE if ready_fd is None else self.log,
        )

    async def kill(self) -> None:
        """End the broker with SIGKILL, as a crash would."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """End the broker with SIGTERM; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()


@asynccontextmanager
async def running_broker(
    config: BrokerConfig, log: IO[bytes] | None = None
) -> AsyncIterator[BrokerProcess]:
    """Run a broker process until the block ends."""
    broker = BrokerProcess(config)
    broker.log = log
    await broker.start()
    try:
        yield broker
    finally:
        if broker.process.returncode is None:
            await broker.kill()


async def run_to_the_end(config: BrokerConfig) -> tuple[int, str]:
    """Start a broker that cannot run; return its exit code and its log."""
    broker = BrokerProcess(config)
    await broker.spawn()
    _, errors = await asyncio.wait_for(broker.process.communicate(), LIMIT_S)
    assert broker.process.returncode is not None
    return broker.process.returncode, errors.decode()


class Front:
    """A client of the broker's `requests` and `events` sockets."""

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._inputs = Path(config.state_dir) / "inputs"
        self._context = zmq.asyncio.Context()
        self.requests = self._context.socket(zmq.DEALER)
        self.events = self._context.socket(zmq.SUB)
        connect_dealer(self.requests, config.addresses.requests, "front")
        connect_sub(self.events, config.addresses.events)

    def reconnect(self) -> None:
        """Replace the request socket, dropping all messages to and from a dead broker."""
        self.requests.close(linger=0)
        self.requests = self._context.socket(zmq.DEALER)
        connect_dealer(self.requests, self._config.addresses.requests, "front")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    async def ask(self, request: FrontRequest) -> FrontReply:
        correlation = secrets.token_bytes(8)
        async with asyncio.timeout(LIMIT_S):
            await self.requests.send_multipart([correlation, *front_requests.encode(request)])
            while True:
                found_correlation, *parts = await self.requests.recv_multipart()
                if found_correlation == correlation:
                    return front_replies.decode(parts)

    async def send_submit(self, job_id: str, spec: JobSpec = SPEC) -> None:
        """Submit a job without waiting for the reply, which `replies` returns."""
        self._store_image(IMAGE)
        message = SubmitJob(job_id=job_id, spec=spec, image=IMAGE)
        await self.requests.send_multipart([b"", *front_requests.encode(message)])

    async def replies(self, count: int) -> list[FrontReply]:
        """Return the next `count` replies in order of arrival."""
        async with asyncio.timeout(LIMIT_S):
            return [
                front_replies.decode((await self.requests.recv_multipart())[1:])
                for _ in range(count)
            ]

    async def submit(
        self,
        spec: JobSpec = SPEC,
        job_id: str | None = None,
        image: str = IMAGE,
        **more: Any,
    ) -> FrontReply:
        """Store an image and submit a job; `more` are further fields of `SubmitJob`."""
        self._store_image(image)
        job_id = job_id or new_job_id()
        return await self.ask(SubmitJob(job_id=job_id, spec=spec, image=image, **more))

    async def submit_ok(self, spec: JobSpec = SPEC) -> str:
        """Submit a job that must be accepted; return its id."""
        reply = await self.submit(spec)
        assert isinstance(reply, JobFound), reply
        return reply.job.job_id

    async def get(self, job_id: str) -> JobView:
        reply = await self.ask(GetJob(job_id=job_id))
        assert isinstance(reply, JobFound), reply
        return reply.job

    async def until(self, job_id: str, *states: JobState) -> JobView:
        """Follow a job's events until it is in one of these states."""
        async with asyncio.timeout(LIMIT_S):
            view = await self.watch(job_id)
            while view.state not in states:
                view = await self.event()
            return view

    async def watch(self, job_id: str) -> JobView:
        """Subscribe to a job; return its first view, after which no change is missed."""
        self.events.setsockopt(zmq.SUBSCRIBE, job_id.encode())
        while True:
            view = await self.event()
            if view.job_id == job_id:
                return view

    async def until_health(
        self, holds: Callable[[HealthFound], bool], every_s: float = 0.02
    ) -> HealthFound:
        """Poll the broker's health until a condition holds."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                health = await self.ask(GetHealth())
                assert isinstance(health, HealthFound)
                if holds(health):
                    return health
                await asyncio.sleep(every_s)

    async def event(self) -> JobView:
        """Return the next event of the watched jobs."""
        async with asyncio.timeout(LIMIT_S):
            _, *parts = await self.events.recv_multipart()
        return job_events.decode(parts)

    def _store_image(self, image: str) -> None:
        self._inputs.mkdir(parents=True, exist_ok=True)
        (self._inputs / image).write_bytes(b"an image")
