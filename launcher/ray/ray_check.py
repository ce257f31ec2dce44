"""Checks of the Ray cluster, through a helper process: the launcher never imports Ray."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from broker.wire.sockets import is_loopback
from launcher.doctor.findings import Finding, error, ok, warning
from launcher.helper import run_helper
from launcher.joining import machine_name
from launcher.options import Options
from launcher.preflight import Folders, StartError, state_owner
from launcher.ray.ray_config import PEER_KEYS, Cluster, resource_of

_LIMIT_S = 60.0
_INSTALL = f"{sys.executable} -m pip install -c constraints.txt -e '.[ray]'"


class RayMissingError(StartError):
    """Raised when Ray is not installed."""


def check_cluster(options: Options, folders: Folders) -> Cluster:
    """Return the cluster's nodes and this server's placements.

    Raises:
        RayMissingError: If the extra is not installed.
        StartError: If no cluster answers.
    """
    if find_spec("ray") is None:
        raise RayMissingError(f"--engine ray: Ray is not installed; {_INSTALL}")
    try:
        answer = run_helper(
            *("launcher.ray.ray_cluster", options.ray_address, machine_name(folders)),
            limit_s=_LIMIT_S,
        )
    except subprocess.TimeoutExpired as late:
        raise StartError(
            f"--ray-address {options.ray_address}: no answer within {_LIMIT_S:.0f} s"
        ) from late
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise StartError(f"--ray-address {options.ray_address}: {lines[-1]}")
    return msgspec.json.decode(answer.stdout, type=Cluster)


def peer_keys(options: Options) -> Path | None:
    """Return the folder of the CURVE keys for the groups; None if the server has no keys.

    Raises:
        StartError: If the folder is not next to the server's own, where `wan keys curve` makes it.
    """
    if options.curve_keys is None:
        return None
    folder = Path(options.curve_keys).resolve().parent / "peer"
    for name in PEER_KEYS:
        if not (folder / name).is_file():
            raise StartError(
                f"--engine ray gives its groups the keys in {folder}, which has no {name}; "
                "wan keys curve makes that folder next to the server's"
            )
    return folder


def cluster_findings(options: Options, folders: Folders) -> Iterator[Finding]:
    """Check that the cluster has room for the groups; if the server runs, say where they are."""
    try:
        peer_keys(options)
    except StartError as fault:
        yield error("ray", str(fault), "wan keys curve keys")
        return
    try:
        cluster = check_cluster(options, folders)
    except RayMissingError as fault:
        yield error("ray", str(fault), _INSTALL)
        return
    except StartError as fault:
        yield error("ray", str(fault), "ray status; ray start --head")
        return
    yield _check_room(options, cluster)
    if is_loopback(str(options.listen).partition("://")[2].rpartition(":")[0]):
        yield from _check_reach(options, cluster)
    if state_owner(folders) is not None:
        yield from _check_placements(options, cluster)


def _check_room(options: Options, cluster: Cluster) -> Finding:
    resource = resource_of(options.device, cluster.nodes)
    counts = [node.resources.get(resource, 0) for node in cluster.nodes]
    room = sum(int(count // options.nproc) for count in counts)
    needs = f"groups of {options.nproc} {resource}"
    if room == 0:
        message = f"no node has room for {needs}; the largest has {max(counts, default=0):g}"
        return error("ray", message, "ray status")
    message = f"room for {min(room, options.num_groups)} of {options.num_groups} {needs}"
    if room < options.num_groups:
        return warning("ray", f"{message}; the others will wait", "ray status")
    return ok("ray", message)


def _check_reach(options: Options, cluster: Cluster) -> Iterator[Finding]:
    if len({node.address for node in cluster.nodes}) > 1:
        message = f"--listen {options.listen} cannot be reached from the cluster's other nodes"
        yield warning("listen", message, "wan keys curve keys")


def _check_placements(options: Options, cluster: Cluster) -> Iterator[Finding]:
    for placement in cluster.placements:
        if placement.node is not None:
            yield ok("placement", f"group {placement.group} is on node {placement.node.address}")
        else:
            message = f"group {placement.group} waits for a node with {placement.needs}"
            yield warning("placement", message, "ray status")
    if len(cluster.placements) < options.num_groups:
        message = (
            f"the server has asked for {len(cluster.placements)} of {options.num_groups} groups"
        )
        yield warning("placement", message)
