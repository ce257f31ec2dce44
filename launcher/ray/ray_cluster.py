"""`python -m launcher.ray.ray_cluster ADDRESS SERVER`: what a Ray cluster has and runs, as JSON.

A process of its own, since the launcher never imports Ray, which has threads and signal handlers.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import msgspec
import ray
from ray.util import placement_group_table

from launcher.ray.ray_config import Cluster, Node, Placement

_IN_USE = ("PENDING", "PREPARED", "CREATED", "RESCHEDULING")
_KNOCK_LIMIT_S = 5.0


class ClusterError(Exception):
    """Raised when there is no cluster that answers."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a cluster; what it has started without being asked to keep it ends with it.

    Raises:
        ClusterError: If it does not answer.
    """
    # Ray prints news of nodes there, in a format of its own.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
            ray.init(address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"no Ray cluster at {address}: {_first_line(error)}") from error
        try:
            yield
        finally:
            ray.shutdown()


def placement_name(server: str, group: str) -> str:
    """Return what the cluster calls the place of a group."""
    return f"wan-ranks {server} {group}"


def look(server: str) -> Cluster:
    """Return what the cluster that this process is connected to has now."""
    nodes = {
        node["NodeID"]: Node(
            name=node["NodeID"], address=node["NodeManagerAddress"], resources=node["Resources"]
        )
        for node in ray.nodes()
        if node["Alive"]
    }
    prefix = placement_name(server, "")
    placements = [
        Placement(
            group=place["name"].removeprefix(prefix),
            needs=" ".join(f"{n:g} {kind}" for kind, n in place["bundles"][0].items()),
            node=nodes.get(place["bundles_to_node_id"][0]) if place["state"] == "CREATED" else None,
        )
        for place in placement_group_table().values()
        if place["name"].startswith(prefix) and place["state"] in _IN_USE
    ]
    return Cluster(
        nodes=list(nodes.values()),
        placements=sorted(placements, key=lambda placement: placement.group),
    )


def main() -> int:
    """Write it to standard output; return the exit code."""
    address, server = sys.argv[1:]
    try:
        with connected(address):
            cluster = look(server)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(cluster).decode())
    return 0


def _knock(address: str) -> None:
    """See that somebody listens: Ray itself takes two minutes to find out."""
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), _KNOCK_LIMIT_S).close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())
