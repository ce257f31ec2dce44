"""What the launcher, the ray-groups process, the nodes and the cluster tell one another."""

import msgspec

from launcher.options import Options
from launcher.served_models import ServedModel

RESOURCES = {"npu": "NPU", "cuda": "GPU", "cpu": "CPU"}
"""Ray's names of the devices; `auto` means the first of them that the cluster has."""

PEER_KEYS = ("peer.key_secret", "broker.key")
"""The files in a peer's folder of CURVE keys."""


class RayGroupsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The only argument of `python -m launcher.ray.ray_groups`, as JSON."""

    server: str
    """Distinguishes this server's groups from those of other servers in the cluster."""
    models: tuple[ServedModel, ...]
    """What the groups serve, each model on its number of groups."""
    group: Options
    """Options of every group, except its model and those that only its node knows."""
    peer_keys: str | None = None
    """Folder of the CURVE keys for the groups."""
    groups_address: str
    """The broker's socket for groups, which receives `GroupLost` when a node is lost."""
    parent_pid: int
    """The launcher's."""
    ready_fd: int | None = None
    """Where the process writes `ready` once the cluster answers."""


class GroupOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node needs to run a group."""

    server: str
    options: Options
    keys: dict[str, str] = {}
    """CURVE keys by file name; secret."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a Ray cluster."""

    name: str
    """Unique; a node that comes back has a new one."""
    address: str
    resources: dict[str, float]
    """In total, whether in use or free."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a Ray cluster runs a group."""

    group: str
    needs: str
    """For example `8 NPU`."""
    node: Node | None
    """None while the group waits for a node."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a Ray cluster, and the placements of one server's groups."""

    nodes: list[Node]
    placements: list[Placement]


def resource_of(device: str, nodes: list[Node]) -> str:
    """Return Ray's name of a device; `auto` is the first kind that any node has."""
    if device != "auto":
        return RESOURCES[device]
    present = {name for node in nodes for name, count in node.resources.items() if count > 0}
    return next((name for name in RESOURCES.values() if name in present), RESOURCES["cpu"])
