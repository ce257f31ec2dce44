"""Starts, watches, restarts and stops the processes of the server independently."""

import asyncio
import errno
import itertools
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.process.cgroup import read_limits
from broker.process.child import IN_USE_EXIT_CODE, UNFIT_EXIT_CODE
from launcher.agent import Agent
from launcher.group_life import GroupLife
from launcher.hang_watch import HangWatch
from launcher.heartbeat_relay import HeartbeatRelay
from launcher.notify import ServiceManager
from launcher.plan import Plan
from launcher.preflight import StartError, prepare_run
from launcher.readiness import wait_until_healthy
from launcher.restarts import RestartPolicy
from launcher.spawn import Child, Reaper, UnkillableError, end_process

logger = logging.getLogger("launcher")

_GRACE_S = 30.0
_REPORT_LIMIT_S = 5.0


class FinalExitError(Exception):
    """Raised when a process has ended for a reason that another start would not change."""


class Supervisor:
    """Runs the processes of a plan, until a signal or a process that fails too often stops them.

    Args:
        plan: Which processes run here, and their configs.
        listener: The front's listening socket; None if no front runs here.
        manager: Receives the launcher's state; None to report it nowhere.
        begun_s: When the command was given, by the steady clock; None for now.
    """

    def __init__(
        self,
        plan: Plan,
        listener: socket.socket | None,
        manager: ServiceManager | None = None,
        begun_s: float | None = None,
    ) -> None:
        self._begun_s = time.monotonic() if begun_s is None else begun_s
        self._plan = plan
        self._listener = listener
        self._manager = manager or ServiceManager({})
        self._reaper = Reaper()
        self._agent = Agent(
            plan.addresses,
            on_kill=self._kill_group,
            on_stop=self._on_stop_command,
        )
        self._relay = (
            None
            if plan.relay_address is None
            else HeartbeatRelay(plan.relay_address, plan.addresses.beats)
        )
        self._broker = Child(self._reaper, "broker", "broker")
        self._front = Child(self._reaper, "front", "http_front")
        self._ray_groups = Child(self._reaper, "ray-groups", "launcher.ray.ray_groups")
        self._ranks_module = "ranks"
        self._groups: dict[str, GroupLife] = {}
        self._watches: dict[str, HangWatch] = {}
        """By the name of the process."""
        self._unfit_group = False
        self._broker_ready = asyncio.Event()
        self._has_served = False
        """Whether a broker started here was ever ready; no other is ours to drain."""
        self._front_ready = asyncio.Event()
        self._group_ready = [asyncio.Event() for _ in range(plan.num_groups)]
        self._stop = asyncio.Event()
        self._groups_ended = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._is_signalled = False
        self._last_error: str | None = None
        self._exit_code = 1

    async def run(self) -> int:
        """Run until everything has stopped; return the launcher's exit code."""
        self._reaper.start()
        self._install_signal_handlers()
        others = self._start_other_tasks()
        announcer = asyncio.create_task(self._announce())
        groups = [asyncio.create_task(self._keep_group(n)) for n in range(len(self._group_ready))]
        for task in (*groups, *others):
            task.add_done_callback(self._on_task_end)
        await self._stop.wait()
        announcer.cancel()
        self._manager.notify("STOPPING=1", "STATUS=stopping; running jobs may finish")
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
            return self._exit_code
        logger.info("stopped")
        return 0

    # --- processes -------------------------------------------------------------------------------

    async def _keep_alive(
        self, name: str, run: Callable[[], Awaitable[str]], until: asyncio.Event
    ) -> None:
        policy = RestartPolicy()
        while not until.is_set():
            try:
                prepare_run(self._plan.folders)  # it may have been removed
                reason = await run()
            except (UnkillableError, FinalExitError) as error:
                return self._give_up(str(error))
            except StartError as error:
                reason = f"could not be started: {error}"
            except OSError as error:  # most often a limit on processes
                reason = f"could not be started: {error}{_limit_note(error)}"
            if until.is_set():
                return None
            if self._unfit_group or self._broker.is_unfit:
                return self._give_up(f"{name} cannot run: {reason}", UNFIT_EXIT_CODE)
            delay_s = policy.delay_s(time.monotonic())
            if delay_s is None:
                return self._give_up(f"{name} does not stay alive; the last time: {reason}")
            logger.error("%s is gone: %s; starting it again in %.0f s", name, reason, delay_s)
            await asyncio.sleep(delay_s)
        return None

    def _start_other_tasks(self) -> "list[asyncio.Task[None]]":
        processes = []
        if self._plan.role == "server":
            processes.append(("broker", self._run_broker))
        else:
            self._broker_ready.set()  # it is on another machine, and its launcher restarts it
        if self._listener is not None:
            processes.append(("front", self._run_front))
        # Both outlast the groups: jobs that end during a drain are still recorded and published.
        work = [self._keep_alive(name, run, self._groups_ended) for name, run in processes]
        work.append(self._manager.feed_watchdog(self._is_well))
        if self._plan.ray_name is not None:
            work.append(self._keep_alive("ray-groups", self._run_ray_groups, self._stop))
        if self._plan.role != "front":  # a front alone keeps running when the server stops
            work.append(self._run_agent())
        if self._relay is not None:
            work.append(self._relay.run())
        return [asyncio.create_task(coroutine) for coroutine in work]

    async def _run_broker(self) -> str:
        broker = self._broker
        draining = self._stop.is_set()
        await broker.start(lambda ready_fd: self._plan.broker_config(ready_fd, draining))
        # In a task: registering waits for a connection, which never comes if the broker dies.
        attendance = asyncio.create_task(self._attend_broker(broker))
        try:
            exit_code = await broker.exited
            if exit_code == IN_USE_EXIT_CODE:
                raise FinalExitError("the broker cannot start; its last log line says what to do")
            return self._reaper.describe_exit(exit_code)
        finally:
            attendance.cancel()
            self._broker_ready.clear()
            broker.close()

    async def _attend_broker(self, broker: Child) -> None:
        if await broker.ready():
            logger.info("broker ready, pid %d", broker.pid)
            self._has_served = True
            self._broker_ready.set()
            await asyncio.gather(self._agent.register(), self._watch(broker))

    async def _run_agent(self) -> None:
        # Until then, another server's broker may be at these addresses.
        await self._broker_ready.wait()
        await self._agent.run()

    async def _run_front(self) -> str:
        await self._broker_ready.wait()
        assert self._listener is not None, "a front without a socket"
        front, fd, more_fds = self._front, self._listener.fileno(), self._plan.more_listen_fds
        await front.start(
            lambda ready_fd: self._plan.front_config(ready_fd, fd), keep_fds=[fd, *more_fds]
        )
        attendance = asyncio.create_task(self._attend_front(front))
        try:
            reason = self._reaper.describe_exit(await front.exited)
            await end_process(front, 0)  # kills the processes that it has started
            return reason
        finally:
            attendance.cancel()
            self._front_ready.clear()
            front.close()

    async def _attend_front(self, front: Child) -> None:
        if await front.ready():
            logger.info("front ready, pid %d", front.pid)
            self._front_ready.set()
            await self._watch(front)

    async def _watch(self, child: Child) -> None:
        watch = self._watches[child.name] = HangWatch(child)
        try:
            await watch.run()
        finally:
            del self._watches[child.name]

    def _is_well(self) -> bool:
        return not any(watch.is_hung for watch in self._watches.values())

    async def _run_ray_groups(self) -> str:
        await self._broker_ready.wait()
        if self._stop.is_set():
            return "stopped"
        ray_groups = self._ray_groups
        await ray_groups.start(self._plan.ray_groups_config)
        try:
            if await ray_groups.ready():
                logger.info("ray-groups ready, pid %d", ray_groups.pid)
            return self._reaper.describe_exit(await ray_groups.exited)
        finally:
            ray_groups.close()

    async def _keep_group(self, index: int) -> None:
        # From the clock, so that epochs also rise across restarts of the launcher.
        epochs = itertools.count(time.time_ns() // 1_000_000)

        async def run() -> str:
            return await self._run_group(index, next(epochs))

        await self._keep_alive(f"group {self._plan.group_name(index)}", run, self._stop)

    async def _run_group(self, index: int, epoch: int) -> str:
        await self._broker_ready.wait()
        if self._stop.is_set():
            return "stopped"
        config = self._plan.group_config(index, epoch)
        if self._relay is not None:
            self._relay.restore_socket()
        group = GroupLife(self._reaper, config, self._ranks_module)
        self._groups[config.group] = group
        logger.info("group %s: starting %d ranks", config.group, config.world_size)
        await self._agent.report_started(config.group, epoch, config.world_size)
        announcer = asyncio.create_task(self._announce_group(index, group))
        try:
            reason = await group.run(self._plan.options.startup_timeout)
        finally:
            announcer.cancel()
            self._group_ready[index].clear()
            del self._groups[config.group]
            _remove(config.rendezvous)
        # Every process is reaped: only now may its job run elsewhere.
        await self._agent.report_gone(config.group, epoch, reason)
        self._unfit_group |= group.is_unfit
        return reason

    def _kill_group(self, name: str, epoch: int, reason: str) -> None:
        group = self._groups.get(name)
        if group is not None and group.config.epoch == epoch:
            group.kill(reason)

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        # Nothing else would report that a task has failed.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the launcher itself has failed", exc_info=error)
            self._give_up(f"the launcher itself has failed: {error!r}")

    def _give_up(self, error: str, exit_code: int = 1) -> None:
        logger.error("%s", error)
        self._last_error, self._exit_code = error, exit_code
        self._stop_now.set()
        self._stop.set()

    # --- start and stop --------------------------------------------------------------------------

    async def _announce_group(self, index: int, group: GroupLife) -> None:
        await group.ready.wait()
        logger.info("group %s ready: %d ranks", group.config.group, group.config.world_size)
        self._group_ready[index].set()

    async def _announce(self) -> None:
        await self._broker_ready.wait()
        url = self._plan.options.join or ""
        if self._listener is not None:
            await self._front_ready.wait()
            host, port = self._listener.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        # Models take minutes to load. Jobs can wait for them; units that systemd starts after this
        # one need not.
        self._manager.notify("READY=1", f"STATUS=up, ranks are loading: {url}")
        for ready in self._group_ready:
            await ready.wait()
        if self._listener is not None and self._group_ready:
            await wait_until_healthy(url)
        models = ", ".join(model.profile.name for model in self._plan.models)
        serving = f", serving {models}" if models else ""
        status = f"ready after {time.monotonic() - self._begun_s:.1f} s{serving}: {url}"
        logger.info("%s", status)
        self._manager.notify(f"STATUS={status}")

    def _install_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number.name)
        loop.add_signal_handler(
            signal.SIGHUP, logger.warning, "SIGHUP ignored; SIGTERM stops the server"
        )

    def _on_signal(self, name: str) -> None:
        if self._is_signalled:
            logger.warning("%s again: ending everything at once", name)
            self._stop_now.set()
        self._is_signalled = True
        self._begin_stop(name)

    def _on_stop_command(self) -> None:
        self._begin_stop("drain")

    def _begin_stop(self, cause: str) -> None:
        # A drain is no signal: a service manager that sends SIGTERM after one still waits for jobs.
        if not self._stop.is_set():
            logger.info("%s: stopping; a second signal ends everything at once", cause)
            self._stop.set()

    async def _stop_all(self, group_tasks: "list[asyncio.Task[None]]") -> None:
        # Jobs, then ranks, front and broker: in this order no result is lost.
        agent = self._agent
        drain = agent.drain if self._plan.role == "server" else agent.drain_groups
        drain_s = self._plan.options.drain_timeout
        # Groups on Ray drain at the same time; each has the drain timeout for itself.
        ray_groups = asyncio.create_task(end_process(self._ray_groups, drain_s + 2 * _GRACE_S))
        if self._has_served or self._plan.role != "server":
            await self._wait_for(drain(), drain_s)
        groups = list(self._groups.values())
        leaving = asyncio.gather(*(group.ask_to_leave() for group in groups))
        await self._wait_for(leaving, _GRACE_S)
        for group in groups:
            group.end("stopped")
        if group_tasks:
            # They report to the broker, if there is one, that the groups are gone.
            await asyncio.wait(group_tasks, timeout=_REPORT_LIMIT_S)
        await self._wait_for(ray_groups, 2 * _GRACE_S)
        await end_process(self._ray_groups, 0)
        self._groups_ended.set()
        for child in (self._front, self._broker):
            await self._wait_for(end_process(child, _GRACE_S), 2 * _GRACE_S)
            await end_process(child, 0)

    async def _wait_for(self, work: Awaitable[object], limit_s: float) -> None:
        """Await work until a time limit or a second signal, then cancel it."""
        task = asyncio.ensure_future(work)
        now = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait([task, now], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (task, now):
            waiter.cancel()
        await asyncio.gather(task, now, return_exceptions=True)


def _limit_note(error: OSError) -> str:
    if error.errno != errno.EAGAIN:
        return ""
    num_tasks = read_limits().num_tasks
    limit = "`ulimit -u`" if num_tasks is None else f"{num_tasks}, the container's pids limit"
    return f"; processes and threads have reached {limit}"


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
