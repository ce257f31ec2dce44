"""What an operator's machine can lack besides accelerators; each examination changes nothing."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg

from broker.wire.sockets import Addresses, is_loopback
from launcher.doctor.findings import Finding, error, ok, warning
from launcher.doctor.process_table import left_behind, listeners
from launcher.options import DEFAULT_MODEL, Options
from launcher.preflight import (
    Folders,
    PortTakenError,
    StartError,
    check_access,
    check_realtime_front,
    check_split,
    listen,
    state_owner,
)
from ranks.model.model_folder import (
    ModelFolderError,
    check_model_folder,
    check_weights,
    num_attention_heads,
)

_GIB = 1 << 30
_ROOM_BYTES = 5 * _GIB
"""Of the state directory: hundreds of videos, and the checkpoints of what runs."""
_SHM_BYTES = _GIB
"""Of /dev/shm, through which NCCL and HCCL move data between ranks; containers have 64 MiB."""
_NUM_FILES = 4096
"""Of the broker: sockets of hundreds of watchers."""
_FFMPEG_LIMIT_S = 30.0
_SHM = Path("/dev/shm")


def examine_state(folders: Folders) -> Iterator[Finding]:
    """Look at the state directory: can it be one, is it in use, is there room."""
    place = folders.state
    try:
        Addresses.in_folder(folders.run)
    except ValueError as fault:
        yield error("state", str(fault), "python launch.py --state-dir /var/lib/wan-ranks")
        return
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        message = f"--state-dir {place}: {existing} is no folder that this user may write to"
        yield error("state", message, f"ls -ld {existing}")
        return
    owner = state_owner(folders)
    if owner is None:
        yield ok("state", f"{place} is not in use")
    else:
        message = f"{place} is in use by the server with pid {owner}; a second one cannot run there"
        yield error("state", message, f"kill {owner}")
    yield _examine_room(existing)


def _examine_room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    message = f"{free / _GIB:.1f} GiB are free in {place}"
    if free < _ROOM_BYTES:
        mend = f"du -xh {place} | sort -h | tail -20"
        return warning("disk", f"only {message}; {_ROOM_BYTES // _GIB} are advisable", mend)
    return ok("disk", message)


def examine_port(options: Options, folders: Folders) -> Iterator[Finding]:
    """Look whether the front can listen, and who is in its place."""
    try:
        listen(options).close()
    except PortTakenError:
        yield _examine_holders(options, state_owner(folders))
    except StartError as fault:
        yield error("port", str(fault), "ip -brief address")
    else:
        yield ok("port", f"port {options.port} on {options.host} is free")


def _examine_holders(options: Options, owner: int | None) -> Finding:
    place = f"port {options.port} on {options.host}"
    holders = listeners(options.port)
    pids = [holder.pid for holder in holders]
    if owner in pids:
        return ok("port", f"{place} is that of the server with pid {owner}")
    if not holders:
        message = f"{place} is taken by a process that this user may not look into"
        return error("port", message, f"sudo ss -ltnp 'sport = :{options.port}'")
    message = f"{place} is taken by {', '.join(holder.shown for holder in holders)}"
    return error("port", message, f"kill {' '.join(map(str, pids))}")


def examine_processes() -> Iterator[Finding]:
    """Look for what an earlier server has left behind, which may hold the accelerators' memory."""
    if stale := left_behind():
        message = f"left behind by an earlier server: {', '.join(one.shown for one in stale)}"
        yield error("processes", message, f"kill -9 {' '.join(str(one.pid) for one in stale)}")
    else:
        yield ok("processes", "no earlier server has left any behind")


def examine_model(options: Options, folders: Folders) -> Iterator[Finding]:
    """Look whether the model is there, whole, and can be split over the ranks."""
    folder = folders.demo_model if options.demo else Path(options.model_path)
    if options.demo and not folder.exists():
        yield ok("model", "the demo model will be made at the start")
        return
    try:
        check_model_folder(folder)
        check_weights(folder)
        check_split(options, num_attention_heads(folder))
    except ModelFolderError as fault:
        fetch = f"hf download {DEFAULT_MODEL} --local-dir {folder}"
        yield error("model", str(fault), f"rm -r {folder}" if options.demo else fetch)
    except StartError as fault:
        yield error("model", str(fault), "python launch.py --nproc 8")
    else:
        yield ok("model", f"{folder} is complete")


def examine_access(options: Options) -> Iterator[Finding]:
    """Look whether the right people, and nobody else, can use the server."""
    mend = f"wan keys add NAME --file {options.api_keys or 'wan-keys.json'}"
    try:
        check_access(options)
    except StartError as fault:
        yield error("access", str(fault), mend)
        return
    if options.api_keys is not None:
        yield ok("access", f"clients must show a key of {options.api_keys}")
    elif is_loopback(options.host):
        yield ok("access", "no API keys; served on this machine only")
    else:
        yield warning("access", f"whoever reaches {options.host} may use the server", mend)


def examine_realtime_front(options: Options) -> Iterator[Finding]:
    """Look whether the front can go first, if it shall."""
    try:
        check_realtime_front(options)
    except StartError as fault:
        yield error("priority", str(fault), "sudo prlimit --pid $$ --rtprio=1")
    else:
        if options.realtime_front:
            yield ok("priority", "the front may have real-time priority")


def examine_ffmpeg() -> Iterator[Finding]:
    """Look whether there is an ffmpeg that encodes as the ranks want it."""
    mend = (
        "unset IMAGEIO_FFMPEG_EXE"
        if "IMAGEIO_FFMPEG_EXE" in os.environ
        else f"{sys.executable} -m pip install --force-reinstall imageio-ffmpeg"
    )
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        told = subprocess.run(
            [program, "-hide_banner", "-encoders"],
            check=True,
            timeout=_FFMPEG_LIMIT_S,
            capture_output=True,
            text=True,
        )
    except (OSError, RuntimeError, subprocess.SubprocessError) as fault:
        yield error("ffmpeg", f"there is none that runs: {fault}", mend)
        return
    if "libx264" in told.stdout:
        yield ok("ffmpeg", program)
    else:
        yield error("ffmpeg", f"{program} cannot encode H.264: it has no libx264", mend)


def examine_limits() -> Iterator[Finding]:
    """Look at what the system allows a process."""
    _, num_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if num_files < _NUM_FILES:
        message = f"a process may open {num_files} files only; {_NUM_FILES} are advisable"
        yield warning("open files", message, f"sudo prlimit --pid $$ --nofile={1 << 16}")
    else:
        yield ok("open files", f"a process may open {num_files}")
    if not _SHM.is_dir():
        yield warning("/dev/shm", "there is none; ranks on accelerators need it")
        return
    room = shutil.disk_usage(_SHM).total
    if room < _SHM_BYTES:
        message = f"/dev/shm has {room >> 20} MiB only; of a container it is set by --shm-size"
        yield warning("/dev/shm", message, "sudo mount -o remount,size=16G /dev/shm")
    else:
        yield ok("/dev/shm", f"{room / _GIB:.1f} GiB")
