"""A Ray cluster on this machine, and the processes on its nodes."""

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
"""CPUs of a node: enough for one group."""


class RayCluster:
    """A head without CPUs, and two nodes that can be lost and returned.

    Args:
        folder: For all files of Ray and the nodes; a short path, because sockets are in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address = str(self._cluster.address)
        self._nodes = [self._cluster.add_node(num_cpus=NPROC) for _ in range(2)]

    def lose_node(self, name: str) -> None:
        """Kill everything on a node, as if its machine failed."""
        node = next(node for node in self._nodes if node.node_id == name)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def return_node(self) -> None:
        """Add a node, as if a machine was started again."""
        self._nodes.append(self._cluster.add_node(num_cpus=NPROC))

    def pids_of_groups(self, *words: str) -> list[int]:
        """Return the pids on the nodes whose command line has `launch`, `ranks` or a given word."""
        wanted = {word.encode() for word in words or ("launch", "ranks")}
        return [pid for pid, command in self._processes() if wanted.intersection(command)]

    def log(self) -> str:
        """Return the logs of the groups on all nodes."""
        return "".join(path.read_text() for path in self._folder.rglob("worker-*.err"))

    def end(self) -> None:
        self._cluster.shutdown()
        for pid, _ in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _processes(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the pid and the command line of each process on the nodes."""
        mark = f"TMPDIR={self._folder}".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    if mark in variables:
                        yield int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
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
