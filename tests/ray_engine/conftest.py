"""A cluster and a model for all tests; without Ray, no test is collected."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_server import ROOT

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.ray_engine.cluster import RayCluster, ray_cluster

    @pytest.fixture(scope="session")
    def cluster() -> Iterator[RayCluster]:
        with ray_cluster() as started:
            yield started

    @pytest.fixture(scope="session")
    def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("model") / "demo"
        command = [sys.executable, "-m", "ranks.demo.build", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True)
        return folder
