"""Checks before a start: they find what is wrong before any process exists."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from broker.process.child import use_realtime_priority
from broker.process.inodes import inode_note
from broker.store.opening import open_store
from broker.store.store import Store, StoreSetupError, is_object_place
from broker.wire.sockets import Addresses, is_loopback
from http_front.access.keys import KeyFileError, read_keys
from launcher.helper import read_device_report, run_helper
from launcher.options import Options
from launcher.outer_variables import provide_temporary_folder, unusable_variables
from launcher.served_models import PLAIN_DEMO, ServedModel
from ranks.config import DeviceKind
from ranks.model_files.diffusers_folder import demo_version

logger = logging.getLogger("launcher")

PROBE_LIMIT_S = 120.0
_NO_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors for the address of a family that the hosts file names and the kernel does not have."""
_BROKER_END_LIMIT_S = 2.0
_BROKER_POLL_S = 0.05


class StartError(Exception):
    """Raised when the server cannot start; the message says why and what to do."""


class SplitError(StartError):
    """Raised when the model cannot be split over the ranks as the options ask."""


class UnfitModelError(StartError):
    """Raised when the model folder must be changed before a start can succeed."""


class PortTakenError(StartError):
    """Raised when another process listens where the front should."""


class Folders(msgspec.Struct, frozen=True, kw_only=True):
    """The server's folders: all under the state directory, except a shared store."""

    state: Path
    store: str
    """A folder or an `s3://` URL."""
    run: Path
    work: Path
    """Has one folder per process that copies files from or to an object store."""

    @classmethod
    def under(cls, state_dir: str, store: str | None = None) -> "Folders":
        state = Path(state_dir).resolve()
        place = store or state_dir
        return cls(
            state=state,
            store=place if is_object_place(place) else str(Path(place).resolve()),
            run=state / "run",
            work=state / "run" / "store",
        )

    def model(self, model: ServedModel) -> Path:
        """Return where a model is, or will be built if it is a demo model."""
        if model.demo is None:
            return Path(model.path)
        which = "" if model.demo == PLAIN_DEMO else f"-{model.name}"
        return self.state / f"demo-model{which}-{demo_version()}"


def store_at(place: str, work_dir: str | None = None) -> Store:
    """Open the store named by `--store`.

    Raises:
        StartError: If it is invalid, or needs a library that is not installed.
    """
    try:
        return open_store(place, work_dir)
    except StoreSetupError as error:
        raise StartError(f"--store {error}") from error


def prepare_folders(folders: Folders) -> Addresses:
    """Make the folders, private to this user, and return the addresses of the sockets in them.

    Raises:
        StartError: If a folder cannot be made or its path is too long for a socket.
    """
    addresses = prepare_run(folders)
    store = store_at(folders.store)
    try:
        if store.is_local:
            store.prepare()
    except OSError as error:
        note = inode_note(Path(folders.store))
        raise StartError(f"--store {folders.store}: {error.strerror}{note}") from error
    return addresses


def prepare_run(folders: Folders) -> Addresses:
    """Make the folder that only this launcher and its children use; return the sockets in it.

    Raises:
        StartError: If it cannot be made or its path is too long for a socket.
    """
    try:
        addresses = Addresses.in_folder(folders.run)
    except ValueError as error:
        raise StartError(str(error)) from error
    try:
        folders.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.run.mkdir(exist_ok=True)
        folders.run.chmod(0o700)
    except OSError as error:
        note = inode_note(folders.state)
        raise StartError(f"--state-dir {folders.state}: {error.strerror}{note}") from error
    provide_temporary_folder(folders.run)
    return addresses


def lock_state(folders: Folders) -> int:
    """Lock the state directory; the lock lasts until the returned descriptor is closed.

    Raises:
        StartError: If another server holds the lock, or its broker runs although the lock
            was removed, or this user may not write to the folder.
    """
    path = folders.state / "launch.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        text = f"{path.name}: {error.strerror}{inode_note(path)}"
        raise StartError(f"--state-dir {folders.state}: {text}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = path.read_text().strip() or "unknown"
        os.close(descriptor)
        raise StartError(
            f"--state-dir {folders.state} is in use by another server, pid {owner}; "
            "stop it or choose another folder"
        ) from error
    if _has_broker(folders):
        os.close(descriptor)
        raise StartError(
            f"--state-dir {folders.state} is in use by another server whose {path.name} was "
            "removed; stop it or choose another folder"
        )
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _has_broker(folders: Folders) -> bool:
    """Return whether a broker keeps its lock; one whose launcher was killed ends at once."""
    deadline = time.monotonic() + _BROKER_END_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with (folders.state / "broker.lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            time.sleep(_BROKER_POLL_S)
    return True


def state_owner(folders: Folders) -> int | None:
    """Return the pid of the server that has locked the state directory, or None."""
    try:
        with (folders.state / "launch.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):  # there is no lock, or its owner has not written its pid yet
        pass
    return None


def check_access(options: Options) -> None:
    """Refuse to serve other machines without API keys, unless `--insecure` allows it.

    Raises:
        StartError: In that case, or if the file of keys is unusable.
    """
    if options.api_keys is not None:
        try:
            keys = read_keys(Path(options.api_keys))
        except KeyFileError as error:
            raise StartError(f"--api-keys {error}; make one: wan keys add NAME") from error
        logger.info("%d API keys in %s; clients must send one", len(keys), options.api_keys)
    elif is_loopback(options.host):
        logger.info("no API keys: the server listens on %s, for this machine only", options.host)
    elif options.insecure:
        logger.warning("--insecure: any client that reaches %s may use the server", options.host)
    else:
        raise StartError(
            f"--host {options.host} can be reached from other machines: name a file of keys with "
            "--api-keys (wan keys add NAME makes one), or allow every client with --insecure"
        )


def check_realtime_front(options: Options) -> None:
    """Check that this user may set real-time priority, if `--realtime-front` asks for it.

    Raises:
        StartError: If the user may not.
    """
    if not options.realtime_front:
        return
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:  # this one keeps its priority
            thread.submit(use_realtime_priority).result()
    except OSError as error:
        raise StartError(
            f"--realtime-front: {error.strerror}; it requires root, `ulimit -r 1`, LimitRTPRIO=1 "
            "in systemd, or --cap-add=SYS_NICE for a container"
        ) from error


def listen(options: Options) -> list[socket.socket]:
    """Return the HTTP front's listening sockets, one for each address of the host.

    `localhost` has one of each family, and a client may try either first. The launcher keeps them
    while the front restarts.

    Raises:
        PortTakenError: If another process listens on the port.
        StartError: If the address does not belong to this machine.
    """
    try:
        return _bound_sockets(options.host, options.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {options.port} on {options.host} is taken by another process; "
                "stop it or choose another port with --port"
            ) from error
        raise StartError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror}"
        ) from error


def check_environment() -> None:
    """Refuse variables of the environment with which no group could start.

    Raises:
        StartError: If there is one.
    """
    for fault in unusable_variables(os.environ):
        raise StartError(fault)


def check_device(options: Options) -> DeviceKind:
    """Return the kind of device that `--device` selects on this machine.

    Raises:
        StartError: If there is no such device, or fewer than ranks.
    """
    if options.device == "cpu":
        return options.device
    count = options.nproc * options.num_groups
    report = run_check(
        *("ranks.device_report", options.device, str(count)),
        limit_s=PROBE_LIMIT_S,
        topic=f"--device {options.device}",
    )
    return read_device_report(report).kind


def _bound_sockets(host: str, port: int) -> list[socket.socket]:
    # A client may take `localhost` for either address, whatever this machine's hosts file says.
    names = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    kind, flag = socket.SOCK_STREAM, socket.AI_PASSIVE
    found = [
        part for name in names for part in socket.getaddrinfo(name, port, type=kind, flags=flag)
    ]
    with ExitStack() as opened:
        listeners: list[socket.socket] = []
        # IPv4 first, since its address is the one that is announced.
        for family, address in sorted({(family, address) for family, *_, address in found}):
            # With port 0, the system chooses a port for the first address.
            chosen = listeners[0].getsockname()[1] if listeners else port
            try:
                listener = _bound_socket(family, (address[0], chosen, *address[2:]))
            except OSError as error:
                if listeners and error.errno in _NO_FAMILY:
                    continue
                raise
            listeners.append(opened.enter_context(listener))
        opened.pop_all()
        return listeners


def _bound_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Only `::` stands for IPv4 too, whatever the system's default is.
            is_for_both = address[0] == "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_for_both)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def run_check(module: str, *arguments: str, limit_s: float, topic: str) -> str:
    """Run a helper process; return its output, or raise `StartError` if it fails."""
    try:
        answer = run_helper(module, *arguments, limit_s=limit_s)
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{topic}: no answer within {limit_s:.0f} s") from error
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise StartError(f"{topic}: {lines[-1]}")
    return answer.stdout
