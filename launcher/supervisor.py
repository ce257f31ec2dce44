"""Starts, watches, restarts and stops the parts of the server, each without the others."""

import asyncio
import itertools
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from broker.config import BrokerConfig
from broker.job import GroupShape
from broker.sockets import Addresses
from http_front.config import FrontConfig
from launcher.agent import Agent
from launcher.group_life import GroupLife
from launcher.options import Options
from launcher.preflight import Folders
from launcher.restarts import RestartPolicy
from launcher.spawn import Child, Reaper, UnkillableError, describe_exit, end_process
from ranks.config import RankConfig

logger = logging.getLogger("launcher")

_GRACE_S = 30.0
_FAREWELL_S = 5.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the start has found out, and the configs that follow from it."""

    options: Options
    folders: Folders
    addresses: Addresses
    model: Path
    num_heads: int
    pid: int
    ranks_module: str = "ranks"
    """What `python -m` runs as the ranks: a group without torch stands in where tests break it."""

    def broker(self, ready_fd: int, draining: bool) -> BrokerConfig:
        """Return the broker's config."""
        options = self.options
        return BrokerConfig(
            state_dir=str(self.folders.state),
            addresses=self.addresses,
            groups=tuple(_group_name(index) for index in range(options.groups)),
            shape=GroupShape(
                world_size=options.nproc,
                num_heads=self.num_heads,
                cfg_size=options.cfg_size,
                ulysses_size=options.ulysses_size,
            ),
            max_queue=options.max_queue,
            job_ttl_s=options.job_ttl,
            step_limit_s=options.step_timeout,
            log_format=options.log_format,
            parent_pid=self.pid,
            ready_fd=ready_fd,
            draining=draining,
        )

    def front(self, ready_fd: int, listen_fd: int) -> FrontConfig:
        """Return the front's config."""
        options = self.options
        return FrontConfig(
            addresses=self.addresses,
            inputs_dir=str(self.folders.inputs),
            videos_dir=str(self.folders.videos),
            webhook_key=str(self.folders.state / "webhook.key"),
            listen_fd=listen_fd,
            host=options.host,
            port=options.port,
            allowed_hosts=options.allowed_hosts,
            cors_origins=options.cors_origins,
            api_keys=options.api_keys,
            image_hosts=options.image_hosts,
            allow_private_images=options.allow_private_images,
            log_format=options.log_format,
            parent_pid=self.pid,
            ready_fd=ready_fd,
        )

    def group(self, index: int, epoch: int) -> RankConfig:
        """Return the config of one life of a group."""
        options = self.options
        return RankConfig(
            group=_group_name(index),
            epoch=epoch,
            world_size=options.nproc,
            model_path=str(self.model),
            device=options.device,
            first_device=index * options.nproc,
            addresses=self.addresses,
            inputs_dir=str(self.folders.inputs),
            videos_dir=str(self.folders.videos),
            checkpoints_dir=str(self.folders.checkpoints),
            checkpoint_steps=options.checkpoint_steps,
            rendezvous=str(self.folders.run / f"g{index}-{epoch}.rendezvous"),
            cfg_size=options.cfg_size,
            ulysses_size=options.ulysses_size,
            dit_fsdp=options.dit_fsdp,
            t5_fsdp=options.t5_fsdp,
            vae_parallel=options.vae_parallel,
            log_format=options.log_format,
            parent_pid=self.pid,
        )


class Supervisor:
    """Runs the server of a plan until a signal stops it or a part cannot be kept alive."""

    def __init__(self, plan: Plan, listener: socket.socket) -> None:
        self._plan = plan
        self._listener = listener
        self._reaper = Reaper()
        self._agent = Agent(
            plan.addresses,
            on_kill=self._kill_group,
            on_stop=self._on_drain_order,
        )
        self._broker = Child(self._reaper, "broker", "broker")
        self._front = Child(self._reaper, "front", "http_front")
        self._lives: dict[str, GroupLife] = {}
        self._broker_ready = asyncio.Event()
        self._front_ready = asyncio.Event()
        self._group_ready = [asyncio.Event() for _ in range(plan.options.groups)]
        self._stop = asyncio.Event()
        self._groups_ended = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._last_error: str | None = None

    async def run(self) -> int:
        """Keep the server alive; return the exit code of the launcher."""
        started = time.monotonic()
        self._reaper.start()
        self._listen_to_signals()
        agent = asyncio.create_task(self._agent.run())
        announcer = asyncio.create_task(self._announce(started))
        groups = [asyncio.create_task(self._keep_group(n)) for n in range(len(self._group_ready))]
        others = [
            # What ends while the server drains has still to be written down, and told.
            asyncio.create_task(self._keep("broker", self._live_broker, self._groups_ended)),
            asyncio.create_task(self._keep("front", self._live_front, self._groups_ended)),
        ]
        for task in (*groups, *others, agent):
            task.add_done_callback(self._on_end_of_task)
        await self._stop.wait()
        announcer.cancel()
        try:
            await self._stop_all(groups)
        except UnkillableError as error:
            self._last_error = str(error)
        for task in (*groups, *others, agent):
            task.cancel()
        await asyncio.gather(*groups, *others, agent, announcer, return_exceptions=True)
        self._agent.close()
        if self._last_error is not None:
            logger.error("stopped: %s", self._last_error)
            return 1
        logger.info("stopped")
        return 0

    # --- the parts' lives ------------------------------------------------------------------------

    async def _keep(
        self, name: str, live: Callable[[], Awaitable[str]], enough: asyncio.Event
    ) -> None:
        """Run a part's lives one after the other, until enough or too many failures."""
        policy = RestartPolicy()
        while not enough.is_set():
            try:
                reason = await live()
            except UnkillableError as error:
                return self._give_up(str(error))
            if enough.is_set():
                return None
            delay_s = policy.delay_s(time.monotonic())
            if delay_s is None:
                return self._give_up(f"{name} does not stay alive; the last time: {reason}")
            logger.error("%s is gone: %s; starting it again in %.0f s", name, reason, delay_s)
            await asyncio.sleep(delay_s)
        return None

    async def _live_broker(self) -> str:
        broker = self._broker
        draining = self._stop.is_set()
        await broker.start(lambda ready_fd: self._plan.broker(ready_fd, draining))
        # A task of its own: a broker that dies before it is connected must be seen to die.
        greeting = asyncio.create_task(self._greet(broker))
        try:
            return describe_exit(await broker.exited)
        finally:
            greeting.cancel()
            self._broker_ready.clear()
            broker.close()

    async def _greet(self, broker: Child) -> None:
        if await broker.ready():
            logger.info("broker ready, pid %d", broker.pid)
            self._broker_ready.set()
            await self._agent.tell_all()

    async def _live_front(self) -> str:
        await self._broker_ready.wait()
        front, fd = self._front, self._listener.fileno()
        await front.start(lambda ready_fd: self._plan.front(ready_fd, fd), keep_fds=[fd])
        try:
            if await front.ready():
                logger.info("front ready, pid %d", front.pid)
                self._front_ready.set()
            reason = describe_exit(await front.exited)
            await end_process(front, 0)  # and what it had started
            return reason
        finally:
            self._front_ready.clear()
            front.close()

    async def _keep_group(self, index: int) -> None:
        # Epochs rise over restarts of the launcher, too.
        epochs = itertools.count(time.time_ns() // 1_000_000)

        async def live() -> str:
            return await self._live_group(index, next(epochs))

        await self._keep(f"group g{index}", live, self._stop)

    async def _live_group(self, index: int, epoch: int) -> str:
        await self._broker_ready.wait()
        if self._stop.is_set():
            return "stopped"
        config = self._plan.group(index, epoch)
        life = GroupLife(self._reaper, config, self._plan.ranks_module)
        self._lives[config.group] = life
        logger.info("group %s: starting %d ranks", config.group, config.world_size)
        await self._agent.tell_started(config.group, epoch, config.world_size)
        announcer = asyncio.create_task(self._announce_group(index, life))
        try:
            reason = await life.live(self._plan.options.startup_timeout)
        finally:
            announcer.cancel()
            self._group_ready[index].clear()
            del self._lives[config.group]
            _remove(config.rendezvous)
        # Every process is reaped: only now may its job run elsewhere.
        await self._agent.tell_gone(config.group, epoch, reason)
        return reason

    def _kill_group(self, group: str, epoch: int, reason: str) -> None:
        life = self._lives.get(group)
        if life is not None and life.config.epoch == epoch:
            life.kill(reason)

    def _on_end_of_task(self, task: "asyncio.Task[None]") -> None:
        """Stop the server if what keeps a part of it alive has failed: nothing else would tell."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the launcher itself has failed", exc_info=error)
            self._give_up(f"the launcher itself has failed: {error!r}")

    def _give_up(self, error: str) -> None:
        logger.error("%s", error)
        self._last_error = error
        self._stop_now.set()
        self._stop.set()

    # --- start and stop --------------------------------------------------------------------------

    async def _announce_group(self, index: int, life: GroupLife) -> None:
        await life.ready.wait()
        logger.info("group %s ready: %d ranks", life.config.group, life.config.world_size)
        self._group_ready[index].set()

    async def _announce(self, started: float) -> None:
        """Say once that everything is up."""
        for ready in (self._front_ready, *self._group_ready):
            await ready.wait()
        host, port = self._listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logger.info("ready after %.1f s: %s", time.monotonic() - started, url)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_order, number.name)
        loop.add_signal_handler(
            signal.SIGHUP, logger.warning, "SIGHUP ignored; SIGTERM stops the server"
        )

    def _on_stop_order(self, by: str) -> None:
        if self._stop.is_set():
            logger.warning("%s again: ending everything at once", by)
            self._stop_now.set()
        else:
            logger.info("%s: stopping; once more ends everything at once", by)
            self._stop.set()

    def _on_drain_order(self) -> None:
        # It may come twice, and must not count as impatience.
        if not self._stop.is_set():
            self._on_stop_order("drain")

    async def _stop_all(self, group_keepers: "list[asyncio.Task[None]]") -> None:
        """Stop in the order in which nothing is lost: jobs, ranks, front, broker."""
        await self._unless_now(self._agent.drain(), self._plan.options.drain_timeout)
        lives = list(self._lives.values())
        leaving = asyncio.gather(*(life.ask_to_leave() for life in lives))
        await self._unless_now(leaving, _GRACE_S)
        for life in lives:
            life.end("stopped")
        # They tell the broker, if there is one, that their groups are gone.
        await asyncio.wait(group_keepers, timeout=_FAREWELL_S)
        self._groups_ended.set()
        for child in (self._front, self._broker):
            await self._unless_now(end_process(child, _GRACE_S), 2 * _GRACE_S)
            await end_process(child, 0)

    async def _unless_now(self, work: Awaitable[object], limit_s: float) -> None:
        """Await work, but no longer than a limit, nor beyond a second signal."""
        task = asyncio.ensure_future(work)
        now = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait([task, now], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (task, now):
            waiter.cancel()
        await asyncio.gather(task, now, return_exceptions=True)


def _group_name(index: int) -> str:
    return f"g{index}"


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
