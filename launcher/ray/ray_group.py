"""A group on a node of a Ray cluster: what the actor does there, in a process that Ray starts."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
from msgspec import structs

from launcher.options import to_toml
from launcher.ray.ray_config import GroupOrder


class GroupOnNode:
    """Runs `launch.py group`, the supervisor of a single machine, as a child that ends with it.

    Ray calls each method in a thread of its own.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._start = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False

    def run(self, order: bytes) -> tuple[int, str]:
        """Run a group until it ends; return its exit code and the last line that it has logged.

        Args:
            order: A `GroupOrder` as JSON.

        Raises:
            OSError: If this node has no folder for it.
        """
        command = _prepare(msgspec.json.decode(order, type=GroupOrder))
        with self._turn:  # Ray asks a second time where it cannot tell whether it was heard
            with self._start:
                if self._is_stopped:
                    return 0, ""
                self._process = subprocess.Popen(
                    command, env=_environment(), stderr=subprocess.PIPE, text=True
                )
            return _follow(self._process)

    def stop(self) -> None:
        """Have the group finish or give back its job, and leave; return when it has ended."""
        with self._start:
            self._is_stopped = True
            if self._process is not None:
                self._process.terminate()
        with self._turn:
            pass


def _follow(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Pass on what a process logs, to where Ray keeps what its actors write, until it ends."""
    last = ""
    with process:
        assert process.stderr is not None, "its standard error is a pipe"
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    return process.returncode, last


def _prepare(order: GroupOrder) -> list[str]:
    """Write down what the group is started with; return its command."""
    options = order.options
    state = _private(Path(tempfile.gettempdir()) / f"wan-ranks-{os.getuid()}")
    for name in (order.server, str(options.name)):
        state = _private(state / name)
    if order.keys:
        keys = _private(state / "keys")
        for name, key in order.keys.items():
            _write(keys / name, key)
        options = structs.replace(options, curve_keys=str(keys))
    told = state / "options.toml"
    _write(told, to_toml(structs.replace(options, state_dir=str(state))))
    # The helper ends with its parent, whatever ends that.
    helper = [sys.executable, "-m", "launcher.helper", str(os.getpid())]
    return [*helper, "launch", "group", "--config", str(told)]


def _private(folder: Path) -> Path:
    """Make a folder that nobody else may enter, below one that everybody may write to.

    Raises:
        PermissionError: If somebody has been there before.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} must be this user's, and closed to all others; remove it")
    return folder


def _write(path: Path, text: str) -> None:
    """Write a file that only this user may read."""
    path.touch(0o600)
    path.write_text(text)


def _environment() -> dict[str, str]:
    """Return the environment of `ray start` on this node, with the devices that Ray has chosen.

    The group's options are all in its file. Ray limits OpenMP to the processors that it gives an
    actor, which are none beside accelerators; the ranks share out the machine's by themselves.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WAN_") and name != "OMP_NUM_THREADS"
    }
