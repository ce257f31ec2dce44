"""`python -m launcher.ray.ray_fleet JSON`: has Ray place the groups of a server until SIGTERM.

Ray alone decides which node a group is on, and places it again when that node is lost: nothing here
schedules. The actor that Ray has placed runs `launch.py group`, which does all the rest.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import ray
import zmq
from msgspec import structs
from ray.exceptions import RayError, RayTaskError
from ray.util import get_node_ip_address, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from broker.process.child import begin, report
from broker.wire.protocol import GroupLost, group_reports
from broker.wire.sockets import connect_dealer
from launcher.ray.ray_cluster import ClusterError, connected, look, placement_name
from launcher.ray.ray_config import (
    PEER_KEYS,
    RESOURCES,
    Cluster,
    GroupOrder,
    Placement,
    RayGroupsConfig,
    resource_of,
)
from launcher.ray.ray_group import GroupOnNode
from launcher.restarts import MAX_DELAY_S, RestartPolicy
from launcher.spawn import describe_exit

logger = logging.getLogger("fleet")

_LOOK_EVERY_S = 1.0
_ASK_AGAIN_S = 10.0
_NUM_THREADS = 4
"""Of an actor: a run that is on, `stop`, and runs that Ray asks for again."""


class RayGroups:
    """Asks Ray for the groups of a server, and has each started again that has ended.

    Args:
        config: Of the server.
        cluster: As it is now.
        broker: A DEALER on the broker's socket for groups.
    """

    def __init__(
        self, config: RayGroupsConfig, cluster: Cluster, broker: "zmq.Socket[bytes]"
    ) -> None:
        self._server = config.server
        self._broker = broker
        self._resource = resource_of(config.group.device, cluster.nodes)
        self._bundle = {self._resource: config.group.nproc}
        self._orders = dict(_orders(config, self._resource))
        self._actors: dict[str, Any] = {}
        self._placements: dict[str, Placement] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Return when a signal has ended it and every group has left its node."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        tasks = [asyncio.create_task(self._keep(group)) for group in self._orders]
        tasks.append(asyncio.create_task(self._watch()))
        stopped = asyncio.create_task(self._stop.wait())
        # Before a stop, a task ends only by failing.
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        if self._stop.is_set():
            await self._leave()
        for task in (*tasks, stopped):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _keep(self, group: str) -> None:
        """Have a group placed and run, and after a pause again whenever it has ended."""
        policy = RestartPolicy()
        order = msgspec.json.encode(self._orders[group])
        while not self._stop.is_set():
            with self._placed(group) as actor:
                reason = await _run(actor, order)
            if self._stop.is_set():
                return
            pause_s = policy.delay_s(time.monotonic()) or MAX_DELAY_S
            logger.error("group %s %s; placing it again in %.0f s", group, reason, pause_s)
            await asyncio.sleep(pause_s)

    @contextlib.contextmanager
    def _placed(self, group: str) -> Iterator[Any]:
        """Have Ray hold a place for a group, now or as soon as it can, and an actor in it."""
        name = placement_name(self._server, group)
        place = placement_group([self._bundle], strategy="STRICT_PACK", name=name)
        settings = ray.remote(GroupOnNode).options(
            num_cpus=self._bundle.get("CPU", 0),
            num_gpus=self._bundle.get("GPU", 0),
            resources={name: n for name, n in self._bundle.items() if name not in ("CPU", "GPU")},
            # Both for ever: what its node takes along is placed, and asked for, anew.
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=_NUM_THREADS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(place, 0),
        )
        self._actors[group] = settings.remote()
        try:
            yield self._actors[group]
        finally:
            remove_placement_group(place)  # and the actor with it
            del self._actors[group]
            self._placements.pop(group, None)

    async def _watch(self) -> None:
        """Log where the groups are, whenever that changes."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                cluster = await asyncio.to_thread(look, self._server)
            except RayError as error:
                logger.warning("the Ray cluster does not answer: %s", _in_short(error))
                continue
            for placement in cluster.placements:
                if placement.group in self._actors:
                    self._note(self._placements.get(placement.group), placement)

    def _note(self, before: Placement | None, now: Placement) -> None:
        self._placements[now.group] = now
        was, now_on = (None if one is None else one.node for one in (before, now))
        if before is not None and was == now_on:
            return
        if was is not None:
            logger.error("group %s: node %s is lost", now.group, was.address)
            self._tell_lost(now.group)
        if now.node is None:
            logger.warning("group %s waits for a node with %s", now.group, now.needs)
        else:
            logger.info("group %s is on node %s", now.group, now.node.address)

    def _tell_lost(self, group: str) -> None:
        # A broker that is not there finds out later, by itself.
        with contextlib.suppress(zmq.Again):
            parts = group_reports.encode(GroupLost(group=group))
            self._broker.send_multipart(parts, zmq.NOBLOCK)

    async def _leave(self) -> None:
        """Have the groups finish or give back their jobs; return when all have left."""
        placed = [one.group for one in self._placements.values() if one.node is not None]
        leaving = [self._end(self._actors[group]) for group in placed if group in self._actors]
        await asyncio.gather(*leaving)

    async def _end(self, actor: Any) -> None:
        with contextlib.suppress(RayError):  # its node is lost, and the group with it
            await actor.stop.options(max_task_retries=0).remote()


async def _run(actor: Any, order: bytes) -> str:
    """Run a group to its end, on whichever nodes; return how it has ended."""
    try:
        code, said = await actor.run.remote(order)
    except RayError as error:
        return f"cannot run: {_in_short(error)}"
    return f"{describe_exit(code)}: {said}"


def _orders(config: RayGroupsConfig, resource: str) -> Iterator[tuple[str, GroupOrder]]:
    """Yield the name of each group, and what its node is told."""
    keys = {}
    if config.peer_keys is not None:
        keys = {name: (Path(config.peer_keys) / name).read_text() for name in PEER_KEYS}
    device = next(device for device, name in RESOURCES.items() if name == resource)
    for index in range(config.num_groups):
        name = f"ray{index}"
        options = structs.replace(
            config.group, name=name, device=device, join=join_address(str(config.group.join))
        )
        yield f"{name}-g0", GroupOrder(server=config.server, options=options, keys=keys)


def join_address(listen: str) -> str:
    """Return where the server is found that listens there: every address is none to connect to."""
    scheme, _, place = listen.partition("://")
    host, _, port = place.rpartition(":")
    if host in ("0.0.0.0", "*"):
        host = get_node_ip_address()
    return f"{scheme}://{host}:{port}"


def _in_short(error: RayError) -> str:
    """Return the line that says most: what the actor raised, or what Ray has to say."""
    lines = str(error).strip().splitlines()
    return lines[-1 if isinstance(error, RayTaskError) else 0] if lines else type(error).__name__


def main() -> int:
    """Return 0 after a stop; as long as the cluster does not answer, ask it again."""
    config = msgspec.json.decode(sys.argv[1], type=RayGroupsConfig)
    begin("fleet", config.parent_pid, config.group.log_format)
    with zmq.Context() as context, context.socket(zmq.DEALER) as broker:
        connect_dealer(broker, config.groups_address, "fleet")
        while True:
            try:
                with connected(config.group.ray_address):
                    report(config.ready_fd, "ready")
                    asyncio.run(RayGroups(config, look(config.server), broker).run())
                    return 0
            except ClusterError as error:
                logger.error("%s; asking again in %.0f s", error, _ASK_AGAIN_S)
                time.sleep(_ASK_AGAIN_S)


if __name__ == "__main__":
    sys.exit(main())
