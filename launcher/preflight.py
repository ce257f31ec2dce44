"""What can be wrong with a start, found before any process exists."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from broker.process.child import go_first
from broker.store.opening import open_store
from broker.store.store import Store, StoreSetupError, is_object_place
from broker.wire.sockets import Addresses, is_loopback
from http_front.access.keys import KeyFileError, read_keys
from launcher.helper import read_device_report, run_helper
from launcher.options import Options
from ranks.config import DeviceKind
from ranks.model.model_folder import (
    ModelFolderError,
    check_model_folder,
    demo_version,
    num_attention_heads,
)

logger = logging.getLogger("launcher")

_DEMO_LIMIT_S = 300.0
_PROBE_LIMIT_S = 120.0


class StartError(Exception):
    """Raised when the server cannot start; the message says why and what to do."""


class PortTakenError(StartError):
    """Raised when another process listens where the front should."""


class Folders(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are: all of it under the state directory, unless files are shared."""

    state: Path
    store: str
    """A folder, or a place in an object store."""
    run: Path
    work: Path
    """Has a folder for each process that moves files from or to an object store."""
    demo_model: Path

    @classmethod
    def under(cls, state_dir: str, store: str | None = None) -> "Folders":
        """Return the folders of a state directory, none of them made."""
        state = Path(state_dir).resolve()
        place = store or state_dir
        return cls(
            state=state,
            store=place if is_object_place(place) else str(Path(place).resolve()),
            run=state / "run",
            work=state / "run" / "store",
            demo_model=state / f"demo-model-{demo_version()}",
        )


def store_at(place: str, work_dir: str | None = None) -> Store:
    """Return the store that an operator has named.

    Raises:
        StartError: If it is none, or what it needs is not installed.
    """
    try:
        return open_store(place, work_dir)
    except StoreSetupError as error:
        raise StartError(f"--store {error}") from error


def prepare_folders(folders: Folders) -> Addresses:
    """Make the folders, new ones private to this user, and return the sockets' addresses in them.

    Raises:
        StartError: If a folder cannot be made or its path is too long for a socket.
    """
    addresses = prepare_run(folders)
    store = store_at(folders.store)
    try:
        if store.is_local:
            store.prepare()
    except OSError as error:
        raise StartError(f"--store {folders.store}: {error.strerror}") from error
    return addresses


def prepare_run(folders: Folders) -> Addresses:
    """Make the folder of what only this launcher and its children use; return its sockets.

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
        raise StartError(f"--state-dir {folders.state}: {error.strerror}") from error
    return addresses


def lock_state(folders: Folders) -> int:
    """Claim the state directory for this process's life; return the lock's descriptor.

    Raises:
        StartError: If another server has it, or the folder is not this user's.
    """
    path = folders.state / "launch.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartError(f"--state-dir {folders.state}: {path.name}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = path.read_text().strip() or "unknown"
        os.close(descriptor)
        raise StartError(
            f"--state-dir {folders.state} is in use by another server, pid {owner}; "
            "stop that one or name another folder"
        ) from error
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def state_owner(folders: Folders) -> int | None:
    """Return the pid of the server that has claimed the state directory, None if none has."""
    try:
        with (folders.state / "launch.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):  # there is no claim, or one just begins
        pass
    return None


def check_access(options: Options) -> None:
    """Refuse to serve other machines without API keys, unless that is what the operator wants.

    Raises:
        StartError: Also if the file of keys cannot be used.
    """
    if options.api_keys is not None:
        try:
            keys = read_keys(Path(options.api_keys))
        except KeyFileError as error:
            raise StartError(f"--api-keys {error}; make one: wan keys add NAME") from error
        logger.info("%d API keys in %s; clients must show one", len(keys), options.api_keys)
    elif is_loopback(options.host):
        logger.info("no API keys: the server listens on %s, for this machine only", options.host)
    elif options.insecure:
        logger.warning("--insecure: whoever reaches %s may use the server", options.host)
    else:
        raise StartError(
            f"--host {options.host} can be reached from other machines: name a file of --api-keys "
            "(wan keys add NAME makes one), or give --insecure to let everybody in"
        )


def check_precedence(options: Options) -> None:
    """Try to have real-time priority, if the front shall.

    Raises:
        StartError: If this user may not.
    """
    if not options.realtime_front:
        return
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:  # which ends with the priority it took
            thread.submit(go_first).result()
    except OSError as error:
        raise StartError(
            f"--realtime-front: {error.strerror}; it takes root, `ulimit -r 1`, LimitRTPRIO=1 "
            "in systemd, or --cap-add=SYS_NICE for a container"
        ) from error


def listen(options: Options) -> socket.socket:
    """Return the listening socket of the HTTP front, which outlives restarts of the front.

    Raises:
        PortTakenError: If another process listens there.
        StartError: If the address is not this machine's.
    """
    try:
        return _bound_socket(options.host, options.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {options.port} on {options.host} is taken by another process; "
                "end it or name another port with --port"
            ) from error
        raise StartError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror}"
        ) from error


def model_folder(options: Options, folders: Folders) -> Path:
    """Return the folder of a complete model; with `--demo`, make it where there is none yet.

    Raises:
        StartError: If a part is missing, or the heads cannot be split over the ranks.
    """
    folder = folders.demo_model if options.demo else Path(options.model_path)
    if options.demo and not folder.exists():
        _make_demo_model(folder)
    try:
        check_model_folder(folder)
        check_split(options, num_attention_heads(folder))
    except ModelFolderError as error:
        raise StartError(str(error)) from error
    return folder


def check_split(options: Options, num_heads: int) -> None:
    """Refuse a number of ranks that no layout uses fully, and a default that no job could have.

    Raises:
        StartError: With the numbers that are possible.
    """
    nproc, ulysses_size = options.nproc, options.ulysses_size
    sizes = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
    possible = sorted({*sizes, *(2 * size for size in sizes)})
    if nproc not in possible:
        raise StartError(
            f"--nproc is {nproc}: the model's {num_heads} attention heads cannot be split over "
            f"{nproc} ranks; possible: {', '.join(map(str, possible))}"
        )
    if ulysses_size is not None and ulysses_size not in sizes:
        raise StartError(
            f"--ulysses-size is {ulysses_size}: it must divide the model's {num_heads} attention "
            f"heads; possible: {', '.join(map(str, sizes))}"
        )


def check_device(options: Options) -> DeviceKind:
    """Return the kind of device that `--device` means here.

    Raises:
        StartError: If it is absent, or there are too few of it.
    """
    if options.device == "cpu":
        return options.device
    count = options.nproc * options.groups
    told = _run(
        *("ranks.device", options.device, str(count)),
        limit_s=_PROBE_LIMIT_S,
        topic=f"--device {options.device}",
    )
    return read_device_report(told).kind


def _bound_socket(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def _make_demo_model(folder: Path) -> None:
    _run("ranks.demo.build", str(folder), limit_s=_DEMO_LIMIT_S, topic="--demo: no model")


def _run(module: str, *arguments: str, limit_s: float, topic: str) -> str:
    """Run a helper that must succeed; return what it writes."""
    try:
        answer = run_helper(module, *arguments, limit_s=limit_s)
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{topic}: no answer within {limit_s:.0f} s") from error
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise StartError(f"{topic}: {lines[-1]}")
    return answer.stdout
