"""The checks of the Ray engine, without Ray."""

import sys
from pathlib import Path

import pytest

from broker.wire.curve import make_keys
from launcher.options import Options
from launcher.preflight import Folders, StartError
from launcher.ray.ray_check import check_cluster, cluster_findings, peer_keys
from launcher.ray.ray_config import Node, resource_of

OPTIONS = Options(engine="ray", listen="tcp://127.0.0.1:5570")


def test_a_missing_ray_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])  # a Python with nothing installed
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    folders = Folders.under(str(tmp_path))
    with pytest.raises(StartError, match=r"^--engine ray: Ray is not installed; "):
        check_cluster(OPTIONS, folders)
    (finding,) = cluster_findings(OPTIONS, folders)
    assert (finding.topic, finding.level) == ("ray", "error")
    assert finding.fix == f"{sys.executable} -m pip install -c constraints.txt -e '.[ray]'"


def test_groups_get_the_keys_next_to_those_of_the_server(tmp_path: Path) -> None:
    broker, peer = make_keys(tmp_path / "keys")
    options = Options(engine="ray", listen="tcp://0.0.0.0:5570", curve_keys=str(broker))
    assert peer_keys(options) == peer
    assert peer_keys(OPTIONS) is None
    (peer / "broker.key").unlink()
    with pytest.raises(StartError, match=rf"keys in {peer}, which has no broker\.key"):
        peer_keys(options)
    (finding,) = cluster_findings(options, Folders.under(str(tmp_path)))
    assert (finding.level, finding.fix) == ("error", "wan keys curve keys")


def test_auto_is_the_first_kind_of_device_that_a_node_has() -> None:
    nodes = [
        Node(name=name, address=name, resources=resources)
        for name, resources in {"a": {"CPU": 4.0}, "b": {"GPU": 8.0}, "c": {"NPU": 0.0}}.items()
    ]
    assert resource_of("auto", nodes) == "GPU"
    assert resource_of("auto", nodes[:1]) == "CPU"
    assert resource_of("npu", nodes) == "NPU"
