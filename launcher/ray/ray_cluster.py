"""`python -m launcher.ray.ray_cluster ADDRESS SERVER`: print a cluster's state as JSON.

It is a helper process, because the launcher never imports Ray: Ray starts threads and sets signal
handlers.
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
_CONNECT_LIMIT_S = 5.0


class ClusterError(Exception):
    """Raised when no cluster answers."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster; when it disconnects, Ray ends the actors that it started.

    Raises:
        ClusterError: If the cluster does not answer.
    """
    # Ray prints messages about nodes to standard output.
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        try:
            _check_reachable(
                os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
            )
            ray.init(address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"no Ray cluster at {address}: {_first_line(error)}") from error
        try:
            yield
        finally:
            ray.shutdown()


def placement_name(server: str, group: str) -> str:
    return f"wan-ranks {server} {group}"


def cluster_state(server: str) -> Cluster:
    """Return the nodes of the connected cluster, and the placements of one server's groups."""
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
            group=entry["name"].removeprefix(prefix),
            needs=" ".join(f"{n:g} {kind}" for kind, n in entry["bundles"][0].items()),
            node=nodes.get(entry["bundles_to_node_id"][0]) if entry["state"] == "CREATED" else None,
        )
        for entry in placement_group_table().values()
        if entry["name"].startswith(prefix) and entry["state"] in _IN_USE
    ]
    return Cluster(
        nodes=list(nodes.values()),
        placements=sorted(placements, key=lambda placement: placement.group),
    )


def main() -> int:
    address, server = sys.argv[1:]
    try:
        with connected(address):
            cluster = cluster_state(server)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(cluster).decode())
    return 0


def _check_reachable(address: str) -> None:
    # Ray itself takes two minutes to notice that nothing listens at an address.
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), _CONNECT_LIMIT_S).close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())
