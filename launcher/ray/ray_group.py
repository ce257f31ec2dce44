"""The actor that runs a group on a node of a Ray cluster, in a process that Ray starts."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
from msgspec import structs

from broker.process.import_path import python
from launcher.command_line import to_toml
from launcher.ray.ray_config import GroupOrder


class GroupOnNode:
    """Runs `launch.py group` as a child process, which ends with the actor.

    Ray calls each method in a thread of its own.
    """

    def __init__(self) -> None:
        self._run_lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False

    def run(self, order: bytes) -> tuple[int, str]:
        """Run a group until it ends; return its exit code and its last log line.

        Args:
            order: A `GroupOrder` as JSON.

        Raises:
            OSError: If the group's folder cannot be made on this node.
        """
        command = _prepare(msgspec.json.decode(order, type=GroupOrder))
        with self._run_lock:  # Ray repeats a call if it does not know whether it arrived
            with self._start_lock:
                if self._is_stopped:
                    return 0, ""
                self._process = subprocess.Popen(
                    command, env=_environment(), stderr=subprocess.PIPE, errors="replace"
                )
            return _follow(self._process)

    def stop(self) -> None:
        """Let the group finish or hand back its job; return when it has ended."""
        with self._start_lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.terminate()
        with self._run_lock:  # `run` holds it until the group has ended
            pass


def _follow(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Copy a process's log to standard error, which Ray keeps, until the process ends."""
    last_line = ""
    with process:
        assert process.stderr is not None, "its standard error is a pipe"
        for line in process.stderr:
            sys.stderr.write(line)
            last_line = line.strip() or last_line
    return process.returncode, last_line


def _prepare(order: GroupOrder) -> list[str]:
    options = order.options
    state = _private(Path(tempfile.gettempdir()) / f"wan-ranks-{os.getuid()}")
    for name in (order.server, str(options.name)):
        state = _private(state / name)
    if order.keys:
        keys = _private(state / "keys")
        for name, key in order.keys.items():
            _write(keys / name, key)
        options = structs.replace(options, curve_keys=str(keys))
    config = state / "options.toml"
    _write(config, to_toml(structs.replace(options, state_dir=str(state))))
    # The helper ends when this process does, even if it is killed.
    arguments = ("launch", "group", "--config", str(config))
    return python("launcher.helper", str(os.getpid()), *arguments)


def _private(folder: Path) -> Path:
    """Make a folder that only this user may enter, in a folder where every user may write.

    Raises:
        PermissionError: If another user has made it first, or others may enter it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(
            f"{folder} must belong to this user and be closed to others; remove it"
        )
    return folder


def _write(path: Path, text: str) -> None:
    path.touch(0o600)  # before the text is in it
    path.write_text(text)


def _environment() -> dict[str, str]:
    """Return this process's environment, which names the devices that Ray assigned.

    `WAN_…` is left out: the group's options are all in its file. So is OMP_NUM_THREADS: Ray sets it
    to the actor's number of CPUs, which is 0 with accelerators; the ranks divide the machine's
    processors themselves.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WAN_") and name != "OMP_NUM_THREADS"
    }
