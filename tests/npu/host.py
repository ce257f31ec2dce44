"""One process that has imported what ranks need, with the stand-in, and forks others for tests.

Importing takes seconds of processor time, more than most tests. The host never touches a device, so
its forks may. The product does not fork on an NPU; `test_server.py` and `test_trial.py` start ranks
as it does.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import IO, NoReturn, Self

from broker.process.child import die_with_parent, importing

_MAX_REQUEST_BYTES = 1 << 16


class Host:
    """The tests' end.

    Args:
        environment: Added to the environment of the host and its forks.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other_end:
            descriptor = other_end.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.npu.host", str(os.getpid()), str(descriptor)],
                env=os.environ | environment,
                pass_fds=[descriptor],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self._process.wait()

    def start(self, function: str, *arguments: str) -> "Fork":
        """Fork a process that calls a function, with pipes for its input and output.

        Args:
            function: `MODULE:NAME`.
            arguments: What it is called with.
        """
        its_input, stdin = os.pipe()
        stdout, its_output = os.pipe()
        request = json.dumps([function, *arguments]).encode()
        socket.send_fds(self._socket, [request], [its_input, its_output])
        os.close(its_input)
        os.close(its_output)
        _, (pidfd,), *_ = socket.recv_fds(self._socket, 1, 1)
        return Fork(pidfd, os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"))


class Fork:
    """A process that the host has forked; used like a `subprocess.Popen`."""

    def __init__(self, pidfd: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.stdin, self.stdout = stdin, stdout
        self._pidfd = pidfd

    def communicate(self, text: str = "") -> str:
        """Write all of the input; return all of the output."""
        with self.stdout:
            with self.stdin:
                self.stdin.write(text.encode())
            return self.stdout.read().decode()

    def poll(self) -> int | None:
        """Return None while it runs, then 0: the exit code is not known."""
        return 0 if self._has_ended(0.0) else None

    def wait(self, timeout: float | None = None) -> None:
        if not self._has_ended(timeout):
            raise TimeoutError(f"the process has not ended after {timeout} s")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _has_ended(self, timeout: float | None) -> bool:
        return bool(select.select([self._pidfd], [], [], timeout)[0])


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    with importing():
        import_module("tests.ranks.rank_group_main")
    with socket.socket(fileno=int(sys.argv[2])) as requests:
        while True:
            request, pipes, *_ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 2)
            if not request:
                break
            _reap()
            _fork(requests, json.loads(request), pipes)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork(requests: socket.socket, call: list[str], pipes: list[int]) -> None:
    host_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(host_pid)
        requests.close()
        for standard, pipe in enumerate(pipes):
            os.dup2(pipe, standard)
            os.close(pipe)
        _call(*call)
    for pipe in pipes:
        os.close(pipe)
    pidfd = os.pidfd_open(pid)
    socket.send_fds(requests, [b"\0"], [pidfd])
    os.close(pidfd)


def _call(function: str, *arguments: str) -> NoReturn:
    """Call a function and end the process, which must not return into the host."""
    module, _, name = function.partition(":")
    try:
        getattr(import_module(module), name)(*arguments)
    except Exception:  # noqa: BLE001 (the outermost call)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
