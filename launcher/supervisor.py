"""Starts, watches, restarts and stops the parts of the server, each without the others."""

import asyncio
import itertools
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from launcher.agent import Agent
from launcher.beat_relay import HeartbeatRelay
from launcher.group_life import GroupLife
from launcher.notify import ServiceManager
from launcher.plan import Plan
from launcher.restarts import RestartPolicy
from launcher.spawn import Child, Reaper, UnkillableError, describe_exit, end_process

logger = logging.getLogger("launcher")

_GRACE_S = 30.0
_FAREWELL_S = 5.0


class Supervisor:
    """Runs the parts of a plan until a signal stops them or one cannot be kept alive.

    Args:
        plan: Says which parts run here, and how.
        listener: The socket of the front, None where no front runs here.
        manager: Is told how it goes; None for nobody.
    """

    def __init__(
        self, plan: Plan, listener: socket.socket | None, manager: ServiceManager | None = None
    ) -> None:
        self._plan = plan
        self._listener = listener
        self._manager = manager or ServiceManager({})
        self._reaper = Reaper()
        self._agent = Agent(
            plan.addresses,
            on_kill=self._kill_group,
            on_stop=self._on_drain_order,
        )
        self._relay = None if plan.ear is None else HeartbeatRelay(plan.ear, plan.addresses.beats)
        self._broker = Child(self._reaper, "broker", "broker")
        self._front = Child(self._reaper, "front", "http_front")
        self._fleet = Child(self._reaper, "fleet", "launcher.ray.ray_fleet")
        self._lives: dict[str, GroupLife] = {}
        self._broker_ready = asyncio.Event()
        self._front_ready = asyncio.Event()
        self._group_ready = [asyncio.Event() for _ in range(plan.num_groups)]
        self._stop = asyncio.Event()
        self._groups_ended = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._is_signalled = False
        self._last_error: str | None = None

    async def run(self) -> int:
        """Keep the server alive; return the exit code of the launcher."""
        started = time.monotonic()
        self._reaper.start()
        self._listen_to_signals()
        others = self._keep_others()
        announcer = asyncio.create_task(self._announce(started))
        groups = [asyncio.create_task(self._keep_group(n)) for n in range(len(self._group_ready))]
        for task in (*groups, *others):
            task.add_done_callback(self._on_end_of_task)
        await self._stop.wait()
        announcer.cancel()
        self._manager.tell("STOPPING=1", "STATUS=stopping; what runs may finish")
        try:
            await self._stop_all(groups)
        except UnkillableError as error:
            self._last_error = str(error)
        for task in (*groups, *others):
            task.cancel()
        await asyncio.gather(*groups, *others, announcer, return_exceptions=True)
        self._agent.close()
        if self._relay is not None:
            self._relay.close()
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

    def _keep_others(self) -> "list[asyncio.Task[None]]":
        """Keep broker and front alive, as far as they run here, and the broker's agent."""
        parts = []
        if self._plan.role == "server":
            parts.append(("broker", self._live_broker))
        else:
            self._broker_ready.set()  # it is somebody else's, and comes and goes
        if self._listener is not None:
            parts.append(("front", self._live_front))
        # What ends while the server drains has still to be written down, and told.
        lives = [self._keep(name, live, self._groups_ended) for name, live in parts]
        lives.append(self._manager.pacify_watchdog())
        if self._plan.fleet_name is not None:
            lives.append(self._keep("fleet", self._live_fleet, self._stop))
        if self._plan.role != "front":  # it outlasts a stop of the server
            lives.append(self._agent.run())
        if self._relay is not None:
            lives.append(self._relay.run())
        return [asyncio.create_task(life) for life in lives]

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
        assert self._listener is not None, "a front without a socket"
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

    async def _live_fleet(self) -> str:
        await self._broker_ready.wait()
        if self._stop.is_set():
            return "stopped"
        fleet = self._fleet
        await fleet.start(self._plan.fleet)
        try:
            if await fleet.ready():
                logger.info("fleet ready, pid %d", fleet.pid)
            return describe_exit(await fleet.exited)
        finally:
            fleet.close()

    async def _keep_group(self, index: int) -> None:
        # Epochs rise over restarts of the launcher, too.
        epochs = itertools.count(time.time_ns() // 1_000_000)

        async def live() -> str:
            return await self._live_group(index, next(epochs))

        await self._keep(f"group {self._plan.group_name(index)}", live, self._stop)

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
        """Say once that jobs are taken, and once that everything is up."""
        await self._broker_ready.wait()
        place = self._plan.options.join
        if self._listener is not None:
            await self._front_ready.wait()
            host, port = self._listener.getsockname()[:2]
            place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        # Models take minutes to load. Jobs wait meanwhile; what else the machine starts need not.
        self._manager.tell("READY=1", f"STATUS=up, ranks are loading: {place}")
        for ready in self._group_ready:
            await ready.wait()
        news = f"ready after {time.monotonic() - started:.1f} s: {place}"
        logger.info("%s", news)
        self._manager.tell(f"STATUS={news}")

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number.name)
        loop.add_signal_handler(
            signal.SIGHUP, logger.warning, "SIGHUP ignored; SIGTERM stops the server"
        )

    def _on_signal(self, by: str) -> None:
        if self._is_signalled:
            logger.warning("%s again: ending everything at once", by)
            self._stop_now.set()
        self._is_signalled = True
        self._begin_stop(by)

    def _on_drain_order(self) -> None:
        self._begin_stop("drain")

    def _begin_stop(self, by: str) -> None:
        # A drain and the signal of a service manager that follows it are no impatience.
        if not self._stop.is_set():
            logger.info("%s: stopping; a second signal ends everything at once", by)
            self._stop.set()

    async def _stop_all(self, group_keepers: "list[asyncio.Task[None]]") -> None:
        """Stop in the order in which nothing is lost: jobs, ranks, front, broker."""
        agent = self._agent
        drain = agent.drain if self._plan.role == "server" else agent.drain_groups
        drain_s = self._plan.options.drain_timeout
        # Its groups drain as any that have joined: each has these seconds for itself, from now on.
        fleet = asyncio.create_task(end_process(self._fleet, drain_s + 2 * _GRACE_S))
        await self._unless_now(drain(), drain_s)
        lives = list(self._lives.values())
        leaving = asyncio.gather(*(life.ask_to_leave() for life in lives))
        await self._unless_now(leaving, _GRACE_S)
        for life in lives:
            life.end("stopped")
        if group_keepers:
            # They tell the broker, if there is one, that their groups are gone.
            await asyncio.wait(group_keepers, timeout=_FAREWELL_S)
        await self._unless_now(fleet, 2 * _GRACE_S)
        await end_process(self._fleet, 0)
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


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
