"""How the end of a child is described."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.spawn import Reaper

LIMIT_BYTES = 64 << 20
_MOUNT = Path("/sys/fs/cgroup")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup that holds 64 MiB, where this user may make one."""
    is_v1 = (_MOUNT / "memory").is_dir()
    folder = _MOUNT / "memory" / "wan-test" if is_v1 else _MOUNT / "wan-test"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this user may not make a cgroup: {error}")
    try:
        limit = folder / ("memory.limit_in_bytes" if is_v1 else "memory.max")
        if not limit.exists():
            pytest.skip("this cgroup has no memory controller")
        limit.write_text(str(LIMIT_BYTES))
        yield folder
    finally:
        folder.rmdir()


def test_a_child_killed_for_want_of_memory_is_said_to_be(cgroup: Path) -> None:
    """Otherwise the operator sees SIGKILL and looks for who sent it."""
    module = "tests.launcher.hungry_child"
    command = [sys.executable, "-m", module, str(cgroup)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == (
        "was killed by the kernel, which had run out of the container's 0.1 GiB"
    )


def test_any_other_kill_is_a_signal() -> None:
    assert Reaper().describe_exit(-9) == "was ended by SIGKILL"
    assert Reaper().describe_exit(3) == "ended with exit code 3"
