"""What is said about groups that Ray places: to fleet process and node, and by the cluster."""

import msgspec

from launcher.options import Options

RESOURCES = {"npu": "NPU", "cuda": "GPU", "cpu": "CPU"}
"""What Ray calls the devices; the first that a cluster has is what `auto` means."""

PEER_KEYS = ("peer.key_secret", "broker.key")
"""What a peer's folder of CURVE keys holds."""


class RayGroupsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The launcher passes it as JSON, the only argument of `python -m launcher.ray.ray_fleet`."""

    server: str
    """Tells the groups of this server from those of others in the same cluster."""
    num_groups: int
    group: Options
    """What each group is started with, but for what only its node knows."""
    peer_keys: str | None = None
    """Folder of the CURVE keys that the groups join with."""
    groups_address: str
    """Of the broker's socket for groups, which is told of those whose node is lost."""
    parent_pid: int
    """Pid of the launcher."""
    ready_fd: int | None = None
    """Where the line `ready` goes once the cluster answers."""


class GroupOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node is told: the group that it shall run."""

    server: str
    options: Options
    keys: dict[str, str] = {}
    """CURVE keys, by the name of their file; they are secret."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a Ray cluster."""

    name: str
    """Which no other node has, nor the same one when it comes back."""
    address: str
    resources: dict[str, float]
    """All that it has, in use or not."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a group of ranks is in a Ray cluster."""

    group: str
    needs: str
    """As `8 NPU`."""
    node: Node | None
    """None while it waits for one."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """What a Ray cluster has, and what it has placed for one server."""

    nodes: list[Node]
    placements: list[Placement]


def resource_of(device: str, nodes: list[Node]) -> str:
    """Return what Ray calls a device; `auto` is the first kind that any node has."""
    if device != "auto":
        return RESOURCES[device]
    present = {name for node in nodes for name, count in node.resources.items() if count > 0}
    return next((name for name in RESOURCES.values() if name in present), RESOURCES["cpu"])
