"""`wan doctor`; each test breaks something for real."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from launcher.doctor.accelerators import accelerator_findings
from launcher.doctor.checks import (
    access_findings,
    ffmpeg_findings,
    model_findings,
    port_findings,
    priority_findings,
    process_findings,
    state_findings,
)
from launcher.doctor.findings import Finding
from launcher.doctor.memory import memory_findings
from launcher.doctor.process_table import left_behind
from launcher.options import Options
from launcher.preflight import Folders, lock_state, prepare_folders
from ranks.config import DeviceReport
from tests.small_disk import small_disk
from tests.stub_model import set_fields

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


def message_of(findings: Iterable[Finding], topic: str, level: str, fix: str | None = None) -> str:
    """Return the message of the first finding on a topic; its level and fix must match."""
    finding = next(finding for finding in findings if finding.topic == topic)
    assert finding.level == level, finding
    if fix is not None:
        assert finding.fix == fix
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


def doctor(*flags: str, before: tuple[str, ...] = (), **variables: str) -> list[Finding]:
    """Run the whole command; return its findings."""
    answer = run(*before, *DOCTOR, "--json", *flags, **variables)
    findings = msgspec.json.decode(answer.stdout, type=dict[str, list[Finding]])["findings"]
    is_wrong = any(finding.level == "error" for finding in findings)
    assert answer.returncode == int(is_wrong), answer.stderr
    return findings


def demo(state_dir: Path) -> tuple[str, ...]:
    return (*DEMO, "--state-dir", str(state_dir))


def test_on_a_healthy_machine_all_is_ok_and_no_file_is_made(
    state_dir: Path,
) -> None:
    findings = doctor(*demo(state_dir))
    # The processes and the disk depend on the machine that runs the tests.
    findings = [finding for finding in findings if finding.topic not in ("processes", "disk")]
    assert {(finding.level, finding.fix) for finding in findings} == {("ok", None)}
    assert not state_dir.exists()


def test_the_text_shows_one_line_per_finding_and_its_fix(state_dir: Path) -> None:
    answer = run(*DOCTOR, "--device", "cpu", "--port", "0", "--state-dir", str(state_dir))
    assert answer.returncode == 1
    assert "error    model        model folder Wan-AI/" in answer.stdout
    assert "fix: hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir " in answer.stdout
    assert answer.stdout.splitlines()[-1] == "not ready to start; errors: 1"


def test_launch_check_runs_the_same_checks(state_dir: Path) -> None:
    checked = run(sys.executable, "launch.py", "--check", *demo(state_dir))
    assert "ok       port         port 0 on 127.0.0.1 is free\n" in checked.stdout
    assert "ok       kernels      element-wise: plain; attention: torch's own\n" in checked.stdout
    assert "ready to start" in checked.stdout.splitlines()[-1]


def test_a_wrong_option_is_named() -> None:
    answer = run(*DOCTOR, "--nproc", "many")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("wan doctor: --nproc is 'many'")


# --- state, port, processes ----------------------------------------------------------------------


def test_a_taken_port_is_reported_with_the_pid_that_holds_it(folders: Folders) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        findings = [*port_findings(Options(port=port), folders)]
    message = message_of(findings, "port", "error", f"kill {os.getpid()}")
    assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()} (" in message


def test_an_address_of_another_machine_is_reported(folders: Folders) -> None:
    findings = port_findings(Options(host="192.0.2.1"), folders)
    message = message_of(findings, "port", "error", "ip -brief address")
    assert "cannot listen on 192.0.2.1" in message


def test_the_report_says_who_may_use_the_server(tmp_path: Path) -> None:
    message_of(access_findings(Options()), "access", "ok")
    message_of(access_findings(Options(host="0.0.0.0", insecure=True)), "access", "warning")
    fix = "wan keys add NAME --file wan-keys.json"
    message_of(access_findings(Options(host="0.0.0.0")), "access", "error", fix)
    missing = str(tmp_path / "keys")
    fix = f"wan keys add NAME --file {missing}"
    message_of(access_findings(Options(api_keys=missing)), "access", "error", fix)


def test_a_missing_real_time_priority_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [*priority_findings(Options())]

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    findings = priority_findings(Options(realtime_front=True))
    fix = "sudo prlimit --pid $$ --rtprio=1"
    assert "--realtime-front" in message_of(findings, "priority", "error", fix)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    message_of(priority_findings(Options(realtime_front=True)), "priority", "ok")


def test_a_running_server_is_reported(folders: Folders) -> None:
    prepare_folders(folders)
    lock = lock_state(folders)
    with socket.create_server(("127.0.0.1", 0)) as own:
        findings = [
            *state_findings(folders),
            *port_findings(Options(port=own.getsockname()[1]), folders),
        ]
    os.close(lock)
    message = message_of(findings, "state", "error", f"kill {os.getpid()}")
    assert f"in use by the server with pid {os.getpid()}" in message
    assert f"this state directory's server, pid {os.getpid()}" in message_of(findings, "port", "ok")
    message_of(state_findings(folders), "state", "ok")


def test_an_unusable_state_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = Folders.under(str(tmp_path / "file" / "state"))
    message_of(state_findings(below), "state", "error", f"ls -ld {tmp_path / 'file'}")
    long = Folders.under(str(tmp_path / ("long" * 30)))
    assert "choose a shorter --state-dir" in message_of(state_findings(long), "state", "error")


def test_a_disk_without_free_space_is_reported(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        findings = [*state_findings(Folders.under(str(disk)))]
    message = message_of(findings, "disk", "warning", f"du -xh {disk} | sort -h | tail -20")
    assert message.startswith(f"only 0.0 GiB are free in {disk}")


@contextlib.contextmanager
def orphan(folder: Path, *before: str) -> Iterator[int]:
    """Run a process that looks like part of a server whose launcher has ended."""
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


def test_processes_left_by_an_earlier_server_are_reported(tmp_path: Path) -> None:
    with orphan(tmp_path) as pid:
        findings = [*process_findings()]
    assert f"pid {pid} (" in message_of(findings, "processes", "error")
    assert str(pid) in str(findings[0].fix).split()
    assert f"pid {pid} (" not in next(process_findings()).message


def test_a_server_in_a_container_does_not_count_as_left_behind(tmp_path: Path) -> None:
    in_own_namespace("true")  # skips the test if it is not possible
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


def test_a_complete_model_is_ok_and_a_missing_part_is_named(model: Path, folders: Folders) -> None:
    options = Options(model_path=(str(model),))
    assert message_of(model_findings(options, folders), "model", "ok") == f"{model} is complete"
    shutil.rmtree(model / "vae")
    fix = f"hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir {model}"
    message = message_of(model_findings(options, folders), "model", "error", fix)
    assert "missing: vae/config.json" in message


def test_a_model_is_held_against_the_memory_of_the_devices(model: Path, folders: Folders) -> None:
    options = Options(model_path=(str(model),), nproc=1)
    devices = DeviceReport(kind="cuda", description="", capacity_bytes=24 << 30, host_bytes=1 << 33)
    found = message_of(memory_findings(options, folders, devices), "memory", "ok")
    assert re.match(
        r"model, --offload none: 1280\*720 with 81 frames takes .* of 23\.[12] GB", found
    )
    needed = [
        float(message_of(memory_findings(chosen, folders, devices), "memory", "ok").split()[8])
        for chosen in (options, structs.replace(options, vae_dtype="bfloat16"))
    ]
    assert needed[1] < 0.7 * needed[0], "the VAE, which takes most of the demo's, is in bfloat16"
    tiny = structs.replace(devices, capacity_bytes=1 << 20)
    fix = f"wan model inspect {model} --cards"
    found = message_of(memory_findings(options, folders, tiny), "memory", "error", fix)
    assert "of which 0.0 GB can be used" in found
    host = structs.replace(devices, capacity_bytes=None)
    assert [*memory_findings(options, folders, host)] == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights_are_reported(model: Path, folders: Folders, share: float) -> None:
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, int(weights.stat().st_size * share))
    findings = model_findings(Options(model_path=(str(model),)), folders)
    message = message_of(findings, "model", "error")
    assert message.startswith(f"{weights} has damaged weights: it ")
    assert message.endswith("; remove the file and download it again")


def test_weights_that_do_not_fit_the_config_are_reported(model: Path, folders: Folders) -> None:
    set_fields(model / "vae" / "config.json", base_dim=16)
    findings = model_findings(Options(model_path=(str(model),)), folders)
    message = message_of(findings, "model", "error")
    assert re.search(r"/vae: \S+ has the shape .*, expected .* from the config", message)


def test_a_number_of_ranks_that_does_not_divide_the_model_is_reported(
    model: Path, folders: Folders
) -> None:
    findings = model_findings(Options(model_path=(str(model),), nproc=7), folders)
    assert "possible: 1, 2, 4, 8" in message_of(findings, "model", "error")


@pytest.mark.parametrize("program", ["/nowhere/ffmpeg", "/bin/true"])
def test_an_unusable_ffmpeg_is_reported(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
    message_of(ffmpeg_findings(), "ffmpeg", "error", "unset IMAGEIO_FFMPEG_EXE")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    message_of(ffmpeg_findings(), "ffmpeg", "ok")


def in_own_namespace(script: str) -> tuple[str, ...]:
    """Return a command prefix that runs a script first, in a mount namespace of its own."""
    if shutil.which("unshare") is None or run("unshare", "-m", "true").returncode != 0:
        pytest.skip("mounting a file system needs root")
    return ("unshare", "-m", "sh", "-ec", f'{script}; exec "$@"', "sh")


PRINT_LIMIT_FINDINGS = """
import sys
import msgspec
from launcher.doctor.checks import limit_findings
sys.stdout.buffer.write(msgspec.json.encode([*limit_findings()]))
"""


def test_low_limits_are_reported() -> None:
    script = "mount -t tmpfs -o size=64m tmpfs /dev/shm; ulimit -n 512"
    answer = run(*in_own_namespace(script), sys.executable, "-c", PRINT_LIMIT_FINDINGS)
    findings = msgspec.json.decode(answer.stdout, type=list[Finding])
    assert "only 512 files" in message_of(findings, "open files", "warning")
    assert message_of(findings, "/dev/shm", "warning").startswith("/dev/shm has only 64 MiB")


# --- accelerators --------------------------------------------------------------------------------


def with_devices(folder: Path, *names: str) -> tuple[str, ...]:
    """Return a command prefix for a machine that has these device files, but no devices."""
    folder.mkdir()
    keep = "null zero urandom random"
    return in_own_namespace(
        f"mount -t tmpfs tmpfs {folder}; cd /dev; cp -a {keep} fd {folder}; mkdir {folder}/shm; "
        f"cd {folder}; touch {' '.join(names)}; mount --move {folder} /dev; cd {ROOT}"
    )


def test_gpus_without_a_driver_or_a_matching_torch_are_reported(
    state_dir: Path, tmp_path: Path
) -> None:
    before = with_devices(tmp_path / "dev", "nvidia0", "nvidia1", "nvidiactl")
    flags = ("--demo", "--port", "0", "--state-dir", str(state_dir))
    findings = doctor(*flags, before=before)
    message = message_of(findings, "driver", "error", "nvidia-smi")
    assert message.startswith("2 NVIDIA GPU in /dev, but no driver: ")
    message = message_of(findings, "device", "warning")
    assert message.startswith(
        "torch sees no NVIDIA GPU, though /dev has some: ranks would use the cpu"
    )


def test_an_npu_without_driver_and_torch_npu_is_reported(state_dir: Path, tmp_path: Path) -> None:
    before = with_devices(tmp_path / "dev", "davinci0", "davinci_manager")
    findings = doctor(*demo(state_dir), before=before)
    message = message_of(findings, "driver", "error", "npu-smi info")
    assert message.startswith("1 Ascend NPU in /dev, but no driver: ")
    fix = f"{sys.executable} -m pip install -c constraints.txt -e '.[npu]'"
    assert "torch_npu is not installed" in message_of(findings, "torch", "error", fix)


def test_a_torch_npu_of_another_release_is_reported_before_torch_is_imported(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "torch_npu-2.1.0.post12.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.1.0.post12\n")
    monkeypatch.syspath_prepend(tmp_path)
    findings = [*accelerator_findings(Options(), folders)]
    message = message_of(findings, "torch", "error", f"{sys.executable} -m pip uninstall torch_npu")
    assert "torch_npu 2.1.0.post12 do not match" in message
    assert [finding.topic for finding in findings] == ["torch"]


def test_a_device_that_torch_does_not_see_is_reported(folders: Folders) -> None:
    findings = accelerator_findings(Options(device="npu"), folders)
    message = message_of(findings, "device", "error")
    assert message.startswith("--device npu: device npu was asked for, but torch sees none")
