"""Checks of everything but accelerators: folders, port, processes, model, tools and limits."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg

from broker.process.cgroup import read_limits
from broker.process.stopped_journal import JOURNAL, check_journal, is_in_use
from broker.wire.model_profile import EightBit
from broker.wire.sockets import Addresses, is_loopback
from launcher.doctor.findings import Finding, error, ok, warning
from launcher.doctor.process_table import left_behind, listeners
from launcher.model_check import CheckedModel, check_8bit, check_model, check_weights, choice_of
from launcher.options import DEFAULT_MODEL, Options
from launcher.outer_variables import provide_temporary_folder, unusable_variables
from launcher.preflight import (
    Folders,
    PortTakenError,
    SplitError,
    StartError,
    UnfitModelError,
    check_access,
    check_realtime_front,
    listen,
    state_owner,
)
from launcher.served_models import ServedModel

_GIB = 1 << 30
_MIN_FREE_BYTES = 5 * _GIB
"""In the state directory, for hundreds of videos and the checkpoints of running jobs."""
_MIN_SHM_BYTES = _GIB
"""In /dev/shm, through which NCCL and HCCL move data between ranks. Containers have 64 MiB."""
_MIN_NUM_FILES = 4096
"""For the broker, which has sockets to hundreds of watchers."""
_MIN_NUM_TASKS = 1024
"""Processes and threads: eight ranks on accelerators have about a hundred each."""
_FFMPEG_LIMIT_S = 30.0
_SHM = Path("/dev/shm")


def state_findings(folders: Folders) -> Iterator[Finding]:
    state = folders.state
    try:
        Addresses.in_folder(folders.run)
    except ValueError as fault:
        yield error("state", str(fault), "python launch.py --state-dir /var/lib/wan-ranks")
        return
    existing = next(path for path in (state, *state.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        message = f"--state-dir {state}: {existing} is not a folder that this user may write to"
        yield error("state", message, f"ls -ld {existing}")
        return
    provide_temporary_folder(existing)
    owner = state_owner(folders)
    if owner is None:
        yield ok("state", f"{state} is not in use")
    else:
        message = f"{state} is in use by the server with pid {owner}; a second one cannot run there"
        yield error("state", message, f"kill {owner}")
    yield _check_free_space(existing)


def journal_findings(folders: Folders) -> Iterator[Finding]:
    state = folders.state
    if not (state / JOURNAL).exists() or is_in_use(state):
        return  # a running broker has opened it
    report = check_journal(state)
    if report.problem is not None:
        yield error("journal", report.problem)
    elif report.unreadable:
        message = (
            f"{len(report.unreadable)} of {report.num_jobs} jobs were made by another version; "
            f"those that have not ended fail at the start: {', '.join(report.unreadable[:3])}"
        )
        yield warning("journal", message)
    else:
        yield ok("journal", f"{state / JOURNAL} opens; jobs: {report.num_jobs}")


def _check_free_space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    message = f"{free / _GIB:.1f} GiB are free in {folder}"
    if free < _MIN_FREE_BYTES:
        fix = f"du -xh {folder} | sort -h | tail -20"
        return warning("disk", f"only {message}; {_MIN_FREE_BYTES // _GIB} GiB are advised", fix)
    return ok("disk", message)


def port_findings(options: Options, folders: Folders) -> Iterator[Finding]:
    try:
        for listener in listen(options):
            listener.close()
    except PortTakenError:
        yield _check_holders(options, state_owner(folders))
    except StartError as fault:
        yield error("port", str(fault), "ip -brief address")
    else:
        yield ok("port", f"port {options.port} on {options.host} is free")


def _check_holders(options: Options, owner: int | None) -> Finding:
    port = f"port {options.port} on {options.host}"
    holders = listeners(options.port)
    pids = [holder.pid for holder in holders]
    if owner in pids:
        return ok("port", f"{port} is held by this state directory's server, pid {owner}")
    if not holders:
        message = f"{port} is taken by a process that this user may not inspect"
        return error("port", message, f"sudo ss -ltnp 'sport = :{options.port}'")
    message = f"{port} is taken by {', '.join(holder.shown for holder in holders)}"
    return error("port", message, f"kill {' '.join(map(str, pids))}")


def process_findings() -> Iterator[Finding]:
    # Such a process may hold the accelerators' memory.
    if stale := left_behind():
        message = f"left by an earlier server: {', '.join(process.shown for process in stale)}"
        yield error(
            "processes", message, f"kill -9 {' '.join(str(process.pid) for process in stale)}"
        )
    else:
        yield ok("processes", "no process of an earlier server is left")


def model_findings(options: Options, folders: Folders) -> Iterator[Finding]:
    for model in options.models:
        yield from _check_model(model, folders.model(model), options)


def _check_model(model: ServedModel, folder: Path, options: Options) -> Iterator[Finding]:
    is_demo = model.demo is not None
    if is_demo and not folder.exists():
        yield ok("model", "the demo model will be built when the server starts")
        return
    download = f"hf download {DEFAULT_MODEL} --local-dir {folder}"
    try:
        report = check_model(model, folder, options)
        if not is_demo:  # the demo's weights are made from its configs
            check_weights(choice_of(model, folder, options))
    except UnfitModelError as fault:
        yield error("model", str(fault), f"rm -r {folder}" if is_demo else download)
    except SplitError as fault:
        yield error("model", str(fault), "python launch.py --nproc 8")
    except StartError as fault:
        yield error("model", str(fault), download)
    else:
        for stray in report.warnings:
            yield warning("model", f"ignored, because it is not part of the model: {stray}")
        yield ok("model", f"{folder} is complete")
        if form := report.profile.quantization:
            yield _check_8bit(report, form, options)


def _check_8bit(model: CheckedModel, form: EightBit, options: Options) -> Finding:
    try:
        check_8bit(options, [model])
    except StartError as fault:
        return error("quantization", str(fault), "python launch.py --quantize int8")
    return ok("quantization", f"the transformer's blocks multiply in {form}")


def access_findings(options: Options) -> Iterator[Finding]:
    fix = f"wan keys add NAME --file {options.api_keys or 'wan-keys.json'}"
    try:
        check_access(options)
    except StartError as fault:
        yield error("access", str(fault), fix)
        return
    if options.api_keys is not None:
        yield ok("access", f"clients must send a key of {options.api_keys}")
    elif is_loopback(options.host):
        yield ok("access", "no API keys; only this machine is served")
    else:
        yield warning("access", f"any client that reaches {options.host} may use the server", fix)


def priority_findings(options: Options) -> Iterator[Finding]:
    try:
        check_realtime_front(options)
    except StartError as fault:
        yield error("priority", str(fault), "sudo prlimit --pid $$ --rtprio=1")
    else:
        if options.realtime_front:
            yield ok("priority", "the front may have real-time priority")


def ffmpeg_findings() -> Iterator[Finding]:
    fix = (
        "unset IMAGEIO_FFMPEG_EXE"
        if "IMAGEIO_FFMPEG_EXE" in os.environ
        else f"{sys.executable} -m pip install --force-reinstall imageio-ffmpeg"
    )
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        encoders = subprocess.run(
            [program, "-hide_banner", "-encoders"],
            check=True,
            timeout=_FFMPEG_LIMIT_S,
            capture_output=True,
            errors="replace",
        )
    except (OSError, RuntimeError, subprocess.SubprocessError) as fault:
        yield error("ffmpeg", f"ffmpeg does not run: {fault}", fix)
        return
    if "libx264" in encoders.stdout:
        yield ok("ffmpeg", program)
    else:
        yield error("ffmpeg", f"{program} cannot encode H.264: it has no libx264", fix)


def variable_findings() -> Iterator[Finding]:
    for fault in unusable_variables(os.environ):
        yield error("environment", fault, f"unset {fault.split()[0]}")


def limit_findings() -> Iterator[Finding]:
    _, num_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if num_files < _MIN_NUM_FILES:
        message = f"a process may open only {num_files} files; {_MIN_NUM_FILES} are advised"
        yield warning("open files", message, f"sudo prlimit --pid $$ --nofile={1 << 16}")
    else:
        yield ok("open files", f"a process may open {num_files}")
    num_tasks = read_limits().num_tasks
    if num_tasks is not None and num_tasks < _MIN_NUM_TASKS:
        message = f"processes and threads are limited to {num_tasks}; {_MIN_NUM_TASKS} are advised"
        yield warning("processes", f"{message}; a container takes --pids-limit")
    if not _SHM.is_dir():
        yield warning("/dev/shm", "/dev/shm is missing; ranks on accelerators need it")
        return
    room = shutil.disk_usage(_SHM).total
    if room < _MIN_SHM_BYTES:
        message = f"/dev/shm has only {room >> 20} MiB; in a container, set it with --shm-size"
        yield warning("/dev/shm", message, "sudo mount -o remount,size=16G /dev/shm")
    else:
        yield ok("/dev/shm", f"{room / _GIB:.1f} GiB")
