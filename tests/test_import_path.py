"""No process imports from the working directory, or our modules from PYTHONPATH."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.process.import_path import python
from tests.running_server import DEMO, ROOT, RunningServer

TRAP = """
import sys
sys.stderr.write(f"TRAPPED {__file__}\\n")
raise SystemExit(99)
"""
STANDARD = ("queue", "runpy", "asyncio", "sched", "csv")
OURS = ("broker", "ranks", "launcher", "http_front")
LIBRARIES = ("msgspec", "zmq", "torch", "PIL")


def set_traps(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text(TRAP)
    return folder


def copy_program(folder: Path) -> Path:
    for name in OURS:
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / DEMO[0], folder)
    return folder


@pytest.mark.parametrize(
    "module",
    ["broker", "ranks", "http_front", "http_front.images.decode_worker", "launcher.helper"],
)
def test_no_child_imports_from_the_working_directory_or_foreign_paths(
    tmp_path: Path, module: str
) -> None:
    """Each fails for its missing config, that is, after its imports."""
    here = set_traps(tmp_path / "here", *STANDARD, *OURS, *LIBRARIES)
    foreign = set_traps(tmp_path / "foreign", *STANDARD, *OURS)
    child = subprocess.run(
        python(module),
        cwd=here,
        env=os.environ | {"PYTHONPATH": f":{foreign}"},  # the empty entry is the working directory
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TRAPPED" not in child.stderr
    assert "IndexError" in child.stderr or "ValueError" in child.stderr


async def test_a_server_started_in_a_hostile_folder_runs(tmp_path: Path) -> None:
    """Its folders have in their names what URLs, shells and lists of paths take for syntax."""
    here = set_traps(tmp_path / "here", *STANDARD, *OURS, *LIBRARIES)
    state_dir = tmp_path / "a b?c#d%20é\n新:e"
    checkout = copy_program(tmp_path / "check:out")
    server = RunningServer(
        state_dir,
        *("--nproc", "2"),
        command=(str(checkout / DEMO[0]), *DEMO[1:]),
        environment={"PYTHONPATH": f":{set_traps(tmp_path / 'foreign', *STANDARD, *OURS)}"},
        cwd=here,
    )
    try:
        await server.wait_until_ready()
        assert "TRAPPED" not in server.log()
        assert server.pids(str(checkout / "broker"))
        assert await server.stop() == 0
    finally:
        server.end()
    # Nothing lies beside the state directory, as a name cut off at a `#` would.
    folders = {name for name in os.listdir(tmp_path) if not name.endswith(".log")}
    assert folders == {"here", "foreign", checkout.name, state_dir.name}
