"""The files of `deploy/container/`, and the launcher as process 1, without a container engine."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from launcher.command_line import parse_command
from tests.deploy.containerfile import Instruction, instructions, of, variables
from tests.deploy.files import DEPLOY, launched, shown_commands, stop_limit_s
from tests.running_server import ROOT, START_LIMIT_S, until

FILES = sorted((DEPLOY / "container").glob("Containerfile.*"))


@pytest.fixture(params=FILES, ids=lambda path: str(path.suffix))
def image(request: pytest.FixtureRequest) -> list[Instruction]:
    return instructions(request.param)


def copied(image: list[Instruction]) -> list[str]:
    return [source for copy in of(image, "COPY") for source in copy.words[:-1]]


def test_copied_files_exist_and_are_not_ignored(image: list[Instruction]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert set(copied(image)) == allowed
    for source in copied(image):
        assert (ROOT / source).exists(), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {*(name.rstrip("*") for name in packages), "launch.py"} <= set(copied(image))


def test_an_image_runs_as_a_user_of_its_own(image: list[Instruction]) -> None:
    assert of(image, "USER")[-1].text == "1000:1000"
    assert not of(image, "ADD")


def test_the_launcher_gets_the_signals_and_the_options(image: list[Instruction]) -> None:
    (entry,) = of(image, "ENTRYPOINT")
    assert entry.text.startswith("[")
    if entry.words[:2] == ["/bin/bash", "-c"]:
        assert re.search(r'&& exec python launch\.py "\$@"$', entry.words[2])
    else:
        assert entry.words == ["python", "launch.py"]
    options = parse_command([], variables(image)).options
    assert [volume.text for volume in of(image, "VOLUME")] == [options.state_dir]
    assert [port.text for port in of(image, "EXPOSE")] == [str(options.port)]
    (check,) = of(image, "HEALTHCHECK")
    assert f"http://127.0.0.1:{options.port}/live" in check.text


def test_installed_extras_exist_and_are_pinned(image: list[Instruction]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for run in of(image, "RUN"):
        for extras in re.findall(r"'\.\[([\w,]+)\]'", run.text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])
        assert "pip install" not in run.text or "--constraint constraints.txt" in run.text


def test_torch_npu_has_the_release_of_torch() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    arguments = [a.text for a in of(instructions(DEPLOY / "container/Containerfile.ascend"), "ARG")]
    assert f"TORCH_NPU={pins['torch']}" in arguments


@pytest.fixture(params=["cuda", "ascend"])
def shown(request: pytest.FixtureRequest) -> tuple[list[str], list[str]]:
    """Return the words before and after the image in the page's `docker run` command."""
    (words,) = [
        words
        for words in map(shlex.split, shown_commands(DEPLOY / "README.md"))
        if words[:2] == ["docker", "run"] and f"wan-ranks:{request.param}" in words
    ]
    at = words.index(f"wan-ranks:{request.param}")
    return words[:at], words[at + 1 :]


def test_the_docker_run_command_fits_the_image(shown: tuple[list[str], list[str]]) -> None:
    engine, launcher = shown
    image = instructions(FILES[0])
    command = launched(["launch.py", *launcher], variables(image))
    options = command.options
    volumes = [value.split(":")[1] for flag, value in pairwise(engine) if flag == "--volume"]
    assert options.state_dir in volumes
    for path in (*options.model_path, options.api_keys):
        assert path is not None
        assert str(Path(path).parent) in volumes
    assert f"{options.port}:{options.port}" in engine
    assert float(engine[engine.index("--stop-timeout") + 1]) > stop_limit_s(command)
    if "--gpus" not in engine:
        devices = [value for flag, value in pairwise(engine) if flag == "--device"]
        assert devices[: options.nproc] == [f"/dev/davinci{n}" for n in range(options.nproc)]


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Return a folder with only the files that the images contain."""
    folder = tmp_path / "image"
    folder.mkdir()
    for name in copied(instructions(DEPLOY / "container/Containerfile.cuda")):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


async def test_as_process_1_the_launcher_reaps_restarts_and_stops(content: Path) -> None:
    with in_namespace(content) as (outer, log):
        await until(lambda: "launcher ready after" in log.read_text(), START_LIMIT_S)
        (launcher,) = children(outer.pid)
        assert status(launcher, "NSpid")[-1] == "1"
        (rank,) = [pid for pid in children(launcher) if "ranks" in command_line(pid)]
        os.kill(rank, signal.SIGKILL)
        await until(lambda: log.read_text().count("group g0 ready") == 2, START_LIMIT_S)
        await until(lambda: not zombies(launcher), START_LIMIT_S)
        os.kill(launcher, signal.SIGTERM)
        assert await asyncio.to_thread(outer.wait, START_LIMIT_S) == 0
    assert "INFO launcher stopped" in log.read_text().splitlines()[-1]


@contextmanager
def in_namespace(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Start the launcher as process 1 of a pid namespace."""
    own = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("pid namespaces are not permitted here")
    flags = ["--demo", "--nproc", "1", "--device", "cpu", "--port", "0"]
    log = folder.parent / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*own, sys.executable, "launch.py", *flags],
            cwd=folder,
            env=os.environ | {"WAN_STATE_DIR": str(folder.parent / "state")},
            stderr=stderr,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def zombies(parent: int) -> list[int]:
    pids = []
    for pid in children(parent):
        with suppress(OSError):  # it may end meanwhile
            if status(pid, "State")[0] == "Z":
                pids.append(pid)
    return pids


def status(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))
