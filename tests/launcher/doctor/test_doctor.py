"""`wan doctor`, each time with something that is really broken."""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from launcher.doctor.accelerators import examine_accelerators
from launcher.doctor.examinations import (
    examine_access,
    examine_ffmpeg,
    examine_model,
    examine_port,
    examine_processes,
    examine_realtime_front,
    examine_state,
)
from launcher.doctor.findings import Finding
from launcher.doctor.process_table import left_behind
from launcher.options import Options
from launcher.preflight import Folders, lock_state, prepare_folders
from tests.small_disk import small_disk

LIMIT_S = 120.0
ROOT = Path(__file__).resolve().parents[3]
DOCTOR = (sys.executable, "-m", "launcher.wan", "doctor")
DEMO = ("--demo", "--device", "cpu", "--port", "0")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def folders(state_dir: Path) -> Folders:
    return Folders.under(str(state_dir))


def told(findings: Iterable[Finding], topic: str, level: str, mend: str | None = None) -> str:
    """Return the message of a finding, which must be as bad, and be mended, as said."""
    finding = next(one for one in findings if one.topic == topic)
    assert finding.level == level, finding
    if mend is not None:
        assert finding.mend == mend
    return finding.message


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


# --- the command ---------------------------------------------------------------------------------


def examine(*flags: str, before: tuple[str, ...] = (), **variables: str) -> list[Finding]:
    """Run the command as a whole; return what it has found."""
    answer = run(*before, *DOCTOR, "--json", *flags, **variables)
    findings = msgspec.json.decode(answer.stdout, type=dict[str, list[Finding]])["findings"]
    is_wrong = any(finding.level == "error" for finding in findings)
    assert answer.returncode == int(is_wrong), answer.stderr
    return findings


def demo(state_dir: Path) -> tuple[str, ...]:
    return (*DEMO, "--state-dir", str(state_dir))


def test_on_a_machine_in_order_there_is_nothing_to_mend_and_nothing_is_made(
    state_dir: Path,
) -> None:
    found = examine(*demo(state_dir))
    # Of the processes and the disk of the machine that tests, nothing is known.
    found = [finding for finding in found if finding.topic not in ("processes", "disk")]
    assert {(finding.level, finding.mend) for finding in found} == {("ok", None)}
    assert not state_dir.exists()


def test_people_get_a_line_a_finding_and_the_command_that_mends_it(state_dir: Path) -> None:
    answer = run(*DOCTOR, "--device", "cpu", "--port", "0", "--state-dir", str(state_dir))
    assert answer.returncode == 1
    assert "error    model        model folder Wan-AI/" in answer.stdout
    assert "mend it: hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir " in answer.stdout
    assert answer.stdout.splitlines()[-1] == "not ready to start; errors: 1"


def test_launch_check_is_the_same_examination(state_dir: Path) -> None:
    checked = run(sys.executable, "launch.py", "--check", *demo(state_dir))
    assert "ok       port         port 0 on 127.0.0.1 is free\n" in checked.stdout
    assert "ready to start" in checked.stdout.splitlines()[-1]


def test_a_wrong_option_is_named() -> None:
    answer = run(*DOCTOR, "--nproc", "many")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("wan doctor: --nproc is 'many'")


# --- state, port, processes ----------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_with_the_pid_that_has_it(folders: Folders) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        findings = [*examine_port(Options(port=port), folders)]
    message = told(findings, "port", "error", f"kill {os.getpid()}")
    assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()} (" in message


def test_an_address_of_another_machine_is_told(folders: Folders) -> None:
    findings = examine_port(Options(host="192.0.2.1"), folders)
    message = told(findings, "port", "error", "ip -brief address")
    assert "cannot listen on 192.0.2.1" in message


def test_who_may_use_the_server_is_told(tmp_path: Path) -> None:
    told(examine_access(Options()), "access", "ok")
    told(examine_access(Options(host="0.0.0.0", insecure=True)), "access", "warning")
    mend = "wan keys add NAME --file wan-keys.json"
    told(examine_access(Options(host="0.0.0.0")), "access", "error", mend)
    missing = str(tmp_path / "keys")
    mend = f"wan keys add NAME --file {missing}"
    told(examine_access(Options(api_keys=missing)), "access", "error", mend)


def test_a_priority_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [*examine_realtime_front(Options())]

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    findings = examine_realtime_front(Options(realtime_front=True))
    mend = "sudo prlimit --pid $$ --rtprio=1"
    assert "--realtime-front" in told(findings, "priority", "error", mend)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    told(examine_realtime_front(Options(realtime_front=True)), "priority", "ok")


def test_a_server_that_runs_is_told(folders: Folders) -> None:
    prepare_folders(folders)
    lock = lock_state(folders)
    with socket.create_server(("127.0.0.1", 0)) as own:
        findings = [
            *examine_state(folders),
            *examine_port(Options(port=own.getsockname()[1]), folders),
        ]
    os.close(lock)
    message = told(findings, "state", "error", f"kill {os.getpid()}")
    assert f"in use by the server with pid {os.getpid()}" in message
    assert f"that of the server with pid {os.getpid()}" in told(findings, "port", "ok")
    told(examine_state(folders), "state", "ok")


def test_a_state_directory_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = Folders.under(str(tmp_path / "file" / "state"))
    told(examine_state(below), "state", "error", f"ls -ld {tmp_path / 'file'}")
    long = Folders.under(str(tmp_path / ("long" * 30)))
    assert "choose a shorter --state-dir" in told(examine_state(long), "state", "error")


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        findings = [*examine_state(Folders.under(str(disk)))]
    message = told(findings, "disk", "warning", f"du -xh {disk} | sort -h | tail -20")
    assert message.startswith(f"only 0.0 GiB are free in {disk}")


@contextlib.contextmanager
def orphan(folder: Path, *before: str) -> Iterator[int]:
    """Keep a process that looks as a part of a server whose launcher has ended."""
    (folder / "http_front.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    config = json.dumps({"parent_pid": ended.pid, "port": 8088})
    command = [*before, sys.executable, "-m", "http_front", config]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_what_an_earlier_server_has_left_behind_is_told_by_its_pids(tmp_path: Path) -> None:
    with orphan(tmp_path) as pid:
        findings = [*examine_processes()]
    assert f"pid {pid} (" in told(findings, "processes", "error")
    assert str(pid) in str(findings[0].mend).split()
    assert f"pid {pid} (" not in next(examine_processes()).message


def test_a_server_in_a_container_is_not_taken_for_one_left_behind(tmp_path: Path) -> None:
    """Seen to fail with the processes of all containers looked at: their pids mean others here."""
    in_a_world_of_its_own("true")  # or skip
    before = ("unshare", "--pid", "--fork", "--kill-child")
    with orphan(tmp_path, *before) as pid:
        assert pid not in [process.parent_pid for process in left_behind()]


# --- model, ffmpeg, limits -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "demo"
    made = run(sys.executable, "-m", "ranks.demo.build", str(folder))
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def model(whole_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_model, tmp_path / "model"))


def test_a_model_is_told_to_be_whole_or_what_is_missing(model: Path, folders: Folders) -> None:
    options = Options(model_path=str(model))
    assert told(examine_model(options, folders), "model", "ok") == f"{model} is complete"
    shutil.rmtree(model / "vae")
    mend = f"hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir {model}"
    message = told(examine_model(options, folders), "model", "error", mend)
    assert "missing: vae/config.json" in message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_weights_that_were_fetched_in_part_are_told(
    model: Path, folders: Folders, share: float
) -> None:
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, int(weights.stat().st_size * share))
    findings = examine_model(Options(model_path=str(model)), folders)
    message = "damaged weights: transformer/diffusion_pytorch_model.safetensors"
    assert message in told(findings, "model", "error")


def test_ranks_that_the_model_cannot_be_split_over_are_told(model: Path, folders: Folders) -> None:
    findings = examine_model(Options(model_path=str(model), nproc=7), folders)
    assert "possible: 1, 2, 4, 8" in told(findings, "model", "error")


@pytest.mark.parametrize("program", ["/nowhere/ffmpeg", "/bin/true"])
def test_an_ffmpeg_that_is_none_is_told(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
    told(examine_ffmpeg(), "ffmpeg", "error", "unset IMAGEIO_FFMPEG_EXE")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    told(examine_ffmpeg(), "ffmpeg", "ok")


def in_a_world_of_its_own(script: str) -> tuple[str, ...]:
    """Return what runs a command after a script has changed limits and mounts for it alone."""
    if shutil.which("unshare") is None or run("unshare", "-m", "true").returncode != 0:
        pytest.skip("mounting a file system needs root")
    return ("unshare", "-m", "sh", "-ec", f'{script}; exec "$@"', "sh")


EXAMINE_LIMITS = """
import sys
import msgspec
from launcher.doctor.examinations import examine_limits
sys.stdout.buffer.write(msgspec.json.encode([*examine_limits()]))
"""


def test_small_limits_are_told() -> None:
    script = "mount -t tmpfs -o size=64m tmpfs /dev/shm; ulimit -n 512"
    answer = run(*in_a_world_of_its_own(script), sys.executable, "-c", EXAMINE_LIMITS)
    findings = msgspec.json.decode(answer.stdout, type=list[Finding])
    assert "512 files only" in told(findings, "open files", "warning")
    assert told(findings, "/dev/shm", "warning").startswith("/dev/shm has 64 MiB only")


# --- accelerators --------------------------------------------------------------------------------


def with_devices(folder: Path, *names: str) -> tuple[str, ...]:
    """Return what runs a command on a machine with device files that lead nowhere."""
    folder.mkdir()
    keep = "null zero urandom random"
    return in_a_world_of_its_own(
        f"mount -t tmpfs tmpfs {folder}; cd /dev; cp -a {keep} fd {folder}; mkdir {folder}/shm; "
        f"cd {folder}; touch {' '.join(names)}; mount --move {folder} /dev; cd {ROOT}"
    )


def test_gpus_without_a_driver_or_a_fitting_torch_are_told(state_dir: Path, tmp_path: Path) -> None:
    before = with_devices(tmp_path / "dev", "nvidia0", "nvidia1", "nvidiactl")
    flags = ("--demo", "--port", "0", "--state-dir", str(state_dir))
    findings = examine(*flags, before=before)
    message = told(findings, "driver", "error", "nvidia-smi")
    assert message.startswith("2 NVIDIA GPU in /dev, but no driver: ")
    message = told(findings, "device", "warning")
    assert message.startswith("torch sees none of the NVIDIA GPU here: the ranks would use the cpu")


def test_an_npu_without_driver_and_torch_npu_is_told(state_dir: Path, tmp_path: Path) -> None:
    before = with_devices(tmp_path / "dev", "davinci0", "davinci_manager")
    findings = examine(*demo(state_dir), before=before)
    message = told(findings, "driver", "error", "npu-smi info")
    assert message.startswith("1 Ascend NPU in /dev, but no driver: ")
    mend = f"{sys.executable} -m pip install -c constraints.txt -e '.[npu]'"
    assert "torch_npu is not installed" in told(findings, "torch", "error", mend)


def test_a_torch_npu_of_another_release_is_told_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "torch_npu-2.1.0.post12.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.1.0.post12\n")
    monkeypatch.syspath_prepend(tmp_path)
    findings = [*examine_accelerators(Options())]
    message = told(findings, "torch", "error", f"{sys.executable} -m pip uninstall torch_npu")
    assert "torch_npu 2.1.0.post12 do not match" in message
    assert [finding.topic for finding in findings] == ["torch"]


def test_a_device_that_torch_does_not_see_is_told() -> None:
    findings = examine_accelerators(Options(device="npu"))
    message = told(findings, "device", "error")
    assert message.startswith("--device npu: device npu was asked for, but torch sees none")
