"""What keeps a server from having Ray place its groups; each without Ray."""

import sys
from pathlib import Path

import pytest

from broker.wire.curve import make_keys
from launcher.options import Options
from launcher.preflight import Folders, StartError
from launcher.ray.ray_check import check_cluster, examine_cluster, peer_keys
from launcher.ray.ray_config import Node, resource_of

OPTIONS = Options(engine="ray", listen="tcp://127.0.0.1:5570")


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # a Python with nothing installed
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    folders = Folders.under(str(tmp_path))
    with pytest.raises(StartError, match=r"^--engine ray: Ray is not installed; "):
        check_cluster(OPTIONS, folders)
    (found,) = examine_cluster(OPTIONS, folders)
    assert (found.topic, found.level) == ("ray", "error")
    assert found.mend == f"{sys.executable} -m pip install -c constraints.txt -e '.[ray]'"


def test_groups_get_the_keys_that_lie_beside_those_of_the_server(tmp_path: Path) -> None:
    broker, peer = make_keys(tmp_path / "keys")
    options = Options(engine="ray", listen="tcp://0.0.0.0:5570", curve_keys=str(broker))
    assert peer_keys(options) == peer
    assert peer_keys(OPTIONS) is None
    (peer / "broker.key").unlink()
    with pytest.raises(StartError, match=rf"keys in {peer}, and there is no broker\.key"):
        peer_keys(options)
    (found,) = examine_cluster(options, Folders.under(str(tmp_path)))
    assert (found.level, found.mend) == ("error", "wan keys curve keys")


def test_auto_is_the_first_kind_of_device_that_a_node_has() -> None:
    nodes = [
        Node(name=name, address=name, resources=resources)
        for name, resources in {"a": {"CPU": 4.0}, "b": {"GPU": 8.0}, "c": {"NPU": 0.0}}.items()
    ]
    assert resource_of("auto", nodes) == "GPU"
    assert resource_of("auto", nodes[:1]) == "CPU"
    assert resource_of("npu", nodes) == "NPU"
