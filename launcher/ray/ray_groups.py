"""`python -m launcher.ray.ray_groups JSON`: has Ray place a server's groups, until SIGTERM.

Ray alone decides which node a group runs on, and places the group again when that node is lost:
nothing here schedules. The actor that Ray places runs `launch.py group`, which does the rest.
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
from broker.wire.group_reports import GroupLost, group_reports
from broker.wire.sockets import connect_dealer
from launcher.ray.ray_cluster import ClusterError, cluster_state, connected, placement_name
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

logger = logging.getLogger("ray-groups")

_POLL_S = 1.0
_RECONNECT_S = 10.0
_NUM_ACTOR_THREADS = 4
"""For the call of `run` in progress, `stop`, and calls of `run` that Ray repeats."""


class RayGroups:
    """Asks Ray to place the groups of a server, and starts a group again when it ends.

    Args:
        config: The server's groups.
        cluster: The cluster's current state.
        broker: A DEALER connected to the broker's socket for groups.
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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        tasks = [asyncio.create_task(self._keep_alive(group)) for group in self._orders]
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

    async def _keep_alive(self, group: str) -> None:
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
        """Hold a placement group for a group, and an actor in it; Ray may place both later."""
        name = placement_name(self._server, group)
        placement = placement_group([self._bundle], strategy="STRICT_PACK", name=name)
        settings = ray.remote(GroupOnNode).options(
            num_cpus=self._bundle.get("CPU", 0),
            num_gpus=self._bundle.get("GPU", 0),
            resources={name: n for name, n in self._bundle.items() if name not in ("CPU", "GPU")},
            # Without limit: when a node is lost, Ray places the actor again and repeats the call.
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=_NUM_ACTOR_THREADS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement, 0),
        )
        self._actors[group] = settings.remote()
        try:
            yield self._actors[group]
        finally:
            remove_placement_group(placement)  # this also ends the actor
            del self._actors[group]
            self._placements.pop(group, None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                cluster = await asyncio.to_thread(cluster_state, self._server)
            except RayError as error:
                logger.warning("the Ray cluster does not answer: %s", _short_text(error))
                continue
            for placement in cluster.placements:
                if placement.group in self._actors:
                    self._update(self._placements.get(placement.group), placement)

    def _update(self, before: Placement | None, now: Placement) -> None:
        self._placements[now.group] = now
        old_node = None if before is None else before.node
        if before is not None and old_node == now.node:
            return
        if old_node is not None:
            logger.error("group %s: node %s is lost", now.group, old_node.address)
            self._report_lost(now.group)
        if now.node is None:
            logger.warning("group %s waits for a node with %s", now.group, now.needs)
        else:
            logger.info("group %s is on node %s", now.group, now.node.address)

    def _report_lost(self, group: str) -> None:
        # A broker that is down notices later: the group's heartbeats are missing.
        with contextlib.suppress(zmq.Again):
            parts = group_reports.encode(GroupLost(group=group))
            self._broker.send_multipart(parts, zmq.NOBLOCK)

    async def _leave(self) -> None:
        """Let the groups finish or hand back their jobs; return when all have left."""
        placed = [p.group for p in self._placements.values() if p.node is not None]
        leaving = [
            self._stop_actor(self._actors[group]) for group in placed if group in self._actors
        ]
        await asyncio.gather(*leaving)

    async def _stop_actor(self, actor: Any) -> None:
        with contextlib.suppress(RayError):  # the node is lost, and the group with it
            await actor.stop.options(max_task_retries=0).remote()


async def _run(actor: Any, order: bytes) -> str:
    """Run a group until it ends, on any number of nodes; return how it ended."""
    try:
        code, last_line = await actor.run.remote(order)
    except RayError as error:
        return f"cannot run: {_short_text(error)}"
    return f"{describe_exit(code)}: {last_line}"


def _orders(config: RayGroupsConfig, resource: str) -> Iterator[tuple[str, GroupOrder]]:
    keys = {}
    if config.peer_keys is not None:
        keys = {name: (Path(config.peer_keys) / name).read_text() for name in PEER_KEYS}
    device = next(device for device, name in RESOURCES.items() if name == resource)
    models = (model for model in config.models for _ in range(model.num_groups))
    for index, model in enumerate(models):
        name = f"ray{index}"
        options = structs.replace(
            config.group,
            name=name,
            device=device,
            join=join_address(str(config.group.join)),
            **model.as_options(),
        )
        yield f"{name}-g0", GroupOrder(server=config.server, options=options, keys=keys)


def join_address(listen: str) -> str:
    """Return the address to join a server at; `0.0.0.0` becomes the address of this node."""
    scheme, _, host_port = listen.partition("://")
    host, _, port = host_port.rpartition(":")
    if host in ("0.0.0.0", "*"):
        host = get_node_ip_address()
    return f"{scheme}://{host}:{port}"


def _short_text(error: RayError) -> str:
    """Return the most useful line: what the actor raised, or else Ray's first line."""
    lines = str(error).strip().splitlines()
    return lines[-1 if isinstance(error, RayTaskError) else 0] if lines else type(error).__name__


def main() -> int:
    config = msgspec.json.decode(sys.argv[1], type=RayGroupsConfig)
    begin("ray-groups", config.parent_pid, config.group.log_format)
    with zmq.Context() as context, context.socket(zmq.DEALER) as broker:
        connect_dealer(broker, config.groups_address, "ray-groups")
        while True:
            try:
                with connected(config.group.ray_address):
                    report(config.ready_fd, "ready")
                    asyncio.run(RayGroups(config, cluster_state(config.server), broker).run())
                    return 0
            except ClusterError as error:
                logger.error("%s; connecting again in %.0f s", error, _RECONNECT_S)
                time.sleep(_RECONNECT_S)


if __name__ == "__main__":
    sys.exit(main())
