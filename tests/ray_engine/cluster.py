"""A Ray cluster on this machine, and what runs on its nodes."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

NPROC = 4
"""Processors of a node: room for one group."""


class RayCluster:
    """A head without processors, and nodes that can be lost and come back.

    Args:
        folder: Of all that Ray and the nodes keep; its path is part of paths of sockets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address = str(self._cluster.address)
        self._nodes = [self._cluster.add_node(num_cpus=NPROC) for _ in range(2)]

    def lose_node(self, name: str) -> None:
        """End everything on a node at once, as when its machine fails."""
        node = next(node for node in self._nodes if node.node_id == name)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def return_node(self) -> None:
        """Have a node join, as when the machine is started again."""
        self._nodes.append(self._cluster.add_node(num_cpus=NPROC))

    def pids_of_groups(self, *parts: str) -> list[int]:
        """Return what runs on the nodes of `launch`, the groups' launchers, and of `ranks`."""
        wanted = {part.encode() for part in parts or ("launch", "ranks")}
        return [pid for pid, words in self._processes() if wanted.intersection(words)]

    def log(self) -> str:
        """Return all that groups have logged on the nodes."""
        return "".join(path.read_text() for path in self._folder.rglob("worker-*.err"))

    def end(self) -> None:
        """Leave nothing running."""
        self._cluster.shutdown()
        for pid, _ in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _processes(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield what runs on a node, and its command line."""
        mark = f"TMPDIR={self._folder}".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    if mark in variables:
                        yield int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start a cluster; leave nothing of it behind."""
    folder = Path(tempfile.mkdtemp(prefix="wr"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "RAY_TMPDIR"):
            patch.setenv(name, str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = RayCluster(folder)
        try:
            yield cluster
        finally:
            cluster.end()
            shutil.rmtree(folder, ignore_errors=True)
