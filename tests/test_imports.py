"""The direction of imports is a design rule; here it is a test."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROCESSES = ("broker", "ranks", "http_front", "launcher")
SHARED = ("broker.wire", "broker.store", "broker.process")
"""The folders that every process may import from; they are the broker's by their place only."""

FORBIDDEN = {
    "broker": {"torch", "aiohttp", "diffusers", "transformers", "ranks", "http_front", "launcher"},
    "ranks": {"aiohttp", "http_front", "launcher"},
    "http_front": {"torch", "diffusers", "transformers", "ranks", "launcher"},
    "launcher": {"torch", "aiohttp", "diffusers", "transformers"},
}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "multiprocessing"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {"recv_pyobj", "send_pyobj", "system", "popen", "broadcast_object_list"}


def product_files() -> list[Path]:
    return [ROOT / "launch.py", *(p for folder in FORBIDDEN for p in (ROOT / folder).rglob("*.py"))]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    names = set(imported(ast.parse(path.read_text())))
    assert not {name.split(".")[0] for name in names} & FORBIDDEN.get(folder, set())
    if folder in ("ranks", "http_front"):
        taken = {name for name in names if name.split(".")[0] == "broker"}
        assert {name for name in taken if not name.startswith(SHARED)} == set()


def test_the_launcher_starts_without_the_libraries_of_those_that_it_starts() -> None:
    """It reads the configs and checks the inputs of the other processes, and must stay light."""
    script = "import launch, sys; print(*{'torch', 'aiohttp', 'diffusers', 'ray'} & {*sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert loaded == "\n"


def test_the_probe_of_the_devices_loads_torch_alone() -> None:
    """diffusers would take longer than the probe, which every start on an accelerator waits for."""
    script = (
        "import ranks.device_report, sys; "
        "print(*{'torch', 'diffusers', 'transformers'} & {*sys.modules})"
    )
    loaded = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert loaded == "torch\n"


IMPURE = {"asyncio", "datetime", "os", "pathlib", "random", "secrets", "socket", "time", "zmq"}


@pytest.mark.parametrize("path", sorted((ROOT / "broker" / "dispatch").glob("*.py")), ids=str)
def test_the_dispatcher_knows_no_clock_no_socket_and_no_file(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = set(imported(tree))
    assert not {name.split(".")[0] for name in names} & IMPURE
    own = {name for name in names if name.split(".")[0] in PROCESSES}
    pure = ("broker.dispatch", "broker.wire", "broker.errors")
    assert {name for name in own if not name.startswith(pure)} == set()
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "open" not in calls


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_evaluates_or_runs_a_shell(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imported(tree)} & UNSAFE
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            check_call(node)


def check_call(call: ast.Call) -> None:
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert keywords.get("shell", "False") == "False"
    if isinstance(call.func, ast.Name):
        assert call.func.id not in UNSAFE_CALLS
    elif isinstance(call.func, ast.Attribute):
        assert call.func.attr not in UNSAFE_METHODS
        if ast.unparse(call.func) == "torch.load":
            assert keywords.get("weights_only") == "True"


def test_only_the_device_file_names_devices() -> None:
    for path in (ROOT / "ranks").rglob("*.py"):
        if path.name in ("device.py", "config.py"):
            continue
        words = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant)
        }
        assert not words & {"npu", "cuda", "torch_npu", "hccl", "nccl"}, path


def test_only_processes_of_their_own_import_ray() -> None:
    """Ray has threads and signal handlers that the launcher could not live with."""
    users = {p.name for p in product_files() if "ray" in imported(ast.parse(p.read_text()))}
    assert users == {"ray_cluster.py", "ray_groups.py"}
    for path in product_files():
        if path.name != "ray_groups.py":
            names = set(imported(ast.parse(path.read_text())))
            assert not names & {"launcher.ray.ray_cluster", "launcher.ray.ray_groups"}, path


def test_packages_import_nothing_by_themselves() -> None:
    for folder in FORBIDDEN:
        for path in (ROOT / folder).rglob("__init__.py"):
            assert not list(imported(ast.parse(path.read_text()))), path
