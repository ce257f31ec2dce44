"""The actor that runs a group on a node, without Ray."""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from launcher.options import Options
from launcher.ray.ray_config import GroupOrder
from launcher.ray.ray_group import GroupOnNode
from tests.free_port import free_port
from tests.running_server import ROOT, until

LIMIT_S = 30.0
RUN_GROUP = (
    "from launcher.ray.ray_group import GroupOnNode; import sys; GroupOnNode().run(sys.argv[1])"
)


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that a node keeps its groups in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"wan-ranks-{os.getuid()}"


def order(join: str, keys: dict[str, str] | None = None) -> bytes:
    options = Options(name="ray3", join=join, nproc=4, device="cpu")
    return msgspec.json.encode(GroupOrder(server="here-1", options=options, keys=keys or {}))


def test_a_group_that_cannot_start_ends_with_the_reason(node: Path) -> None:
    code, last_line = GroupOnNode().run(order("tcp://192.0.2.1:5570"))
    assert code == 1
    assert last_line.startswith("launch.py: --join tcp://192.0.2.1:5570 can be reached from other")


def test_only_its_user_may_read_the_files_of_a_group_on_a_node(node: Path) -> None:
    keys = {"peer.key_secret": "secret", "broker.key": "public"}
    GroupOnNode().run(order("nowhere", keys))
    state = node / "here-1" / "ray3"
    assert (state / "keys" / "peer.key_secret").read_text() == "secret"
    assert f'curve_keys = "{state}/keys"' in (state / "options.toml").read_text()
    paths = [node, *node.rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in paths if path.name != "run"} == {0}


def test_a_folder_that_others_may_write_to_is_refused(node: Path) -> None:
    """Otherwise a user who makes the folder first could read the keys."""
    node.mkdir(mode=0o777)
    node.chmod(0o777)
    with pytest.raises(PermissionError, match="must belong to this user and be closed to others"):
        GroupOnNode().run(order("nowhere"))


def test_after_a_stop_nothing_is_started(node: Path) -> None:
    group = GroupOnNode()
    group.stop()
    assert group.run(order("nowhere")) == (0, "")


async def test_a_group_ends_with_the_process_of_its_actor(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"  # without an answer, the group waits 30 s
    (tmp_path / "videos" / ".partial").mkdir(parents=True)
    options = Options(name="ray3", join=address, store=str(tmp_path), device="cpu")
    start_order = msgspec.json.encode(GroupOrder(server="here-1", options=options)).decode()
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    actor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN_GROUP, start_order), cwd=ROOT, env=environment
    )
    folder = str(tmp_path / f"wan-ranks-{os.getuid()}")
    await until(lambda: bool(_pids_of(folder)), LIMIT_S)
    actor.kill()
    await actor.wait()
    await until(lambda: not _pids_of(folder), LIMIT_S)


def _pids_of(word: str) -> list[str]:
    """Return the processes with a word in their command line."""
    pgrep = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True, check=False)
    return pgrep.stdout.split()
