"""The distribution `wan-client`: `wan submit` from an environment without torch."""

import asyncio
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import pytest_asyncio
from packaging.requirements import Requirement

from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import picture, serve
from tests.running_server import ROOT

FOLDER = ROOT / "deploy" / "client"
LIMIT_S = 60.0


def project(folder: Path) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def test_it_has_the_version_and_the_limits_of_the_server() -> None:
    client, server = project(FOLDER), project(ROOT)
    for name in ("version", "requires-python", "license"):
        assert client[name] == server[name]
    needed, allowed = client["dependencies"], server["dependencies"]
    assert isinstance(needed, list)
    assert isinstance(allowed, list)
    assert set(needed) < set(allowed)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the command in a fresh environment that has what the distribution names, no more."""
    folder = tmp_path_factory.mktemp("client")
    pip = (sys.executable, "-m", "pip")
    build = ("wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w", str(folder))
    subprocess.run([*pip, *build, str(source_in(folder))], check=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("wan_client-*.whl")
    install = ("install", "-q", "--no-index", "--no-deps", str(wheel))
    subprocess.run([*pip, "--python", str(python), *install], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    ours = Path(sysconfig.get_path("purelib"))
    for name in sorted(names_needed()):
        for entry in ours.iterdir():
            if entry.name.partition("-")[0].partition(".")[0].lower() == name:
                (packages / entry.name).symlink_to(entry)
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert b"No module named 'torch'" in missing.stderr
    return python.parent / "wan"


def source_in(folder: Path) -> Path:
    """Return the distribution's folder as in a checkout; a build writes beside its sources."""
    for name in ("broker", "http_front"):
        (folder / name).symlink_to(ROOT / name)
    client = folder / "deploy" / "client"
    client.mkdir(parents=True)
    shutil.copy(FOLDER / "pyproject.toml", client)
    return client


def names_needed() -> set[str]:
    """Return the modules of the distribution's dependencies, and of theirs."""
    dependencies = project(FOLDER)["dependencies"]
    assert isinstance(dependencies, list)
    names: set[str] = set()
    waiting = [Requirement(text).name for text in dependencies]
    while waiting:
        name = waiting.pop().lower().replace("-", "_")
        if name in names:
            continue
        names.add(name)
        try:
            found = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue  # of another version of Python
        waiting += [need.name for need in found if need.marker is None or need.marker.evaluate()]
    return names | {"attr", "attrs", "pygments"}


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> ScriptedBroker:
    return ScriptedBroker(tmp_path)


async def called(wan: Path, *words: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(wan), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_job_is_submitted_without_torch(
    wan: Path, tmp_path: Path, broker: ScriptedBroker
) -> None:
    image = tmp_path / "boat.png"
    image.write_bytes(picture())
    async with broker, serve(tmp_path, broker.addresses) as front:
        words = (str(image), "--prompt", "A boat drifts by", "--server", front.url)
        code, out, err = await called(wan, "submit", *words)
        assert (code, err) == (0, "")
        assert out.strip() in broker.specs
    code, out, _ = await called(wan, "--version")
    assert (code, out) == (0, f"wan {project(FOLDER)['version']}\n")


async def test_it_has_no_command_that_needs_the_server_beside_it(wan: Path) -> None:
    code, _, err = await called(wan, "doctor")
    assert code == 2
    assert "invalid choice: 'doctor'" in err
