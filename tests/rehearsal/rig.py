"""The environments of their own in which the real builds run over the stubs."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.rehearsal.cuda.stubs import build_stubs as build_cuda_stubs
from tests.rehearsal.npu.stubs import build_stubs as build_npu_stubs

Kind = Literal["cuda", "npu"]

ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).parent
_BUILD = ROOT / "build" / "rehearsal"
_CUDA_PYTHON = "3.12"
_CUDA_PYTHON_VARIABLE = "REHEARSAL_PYTHON"


class RigUnavailable(Exception):
    """Raised when a wheel or a Python that a rig needs cannot be had here."""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A Python with a real build of torch, and the libraries that stand in for the vendor's."""

    kind: Kind
    python: Path
    stubs: Path
    kernels: Path
    """Where compiled kernels are kept from one part to the next."""

    def environment(self) -> dict[str, str]:
        """Return the environment of processes on the rig."""
        own = {
            "LD_LIBRARY_PATH": str(self.stubs),
            "TRITON_LIBCUDA_PATH": str(self.stubs),
            "TORCHINDUCTOR_CACHE_DIR": str(self.kernels / "inductor"),
            "TRITON_CACHE_DIR": str(self.kernels / "triton"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        return os.environ | own

    def run(self, module: str, *arguments: str) -> int:
        """Run a module to its end; return its exit code."""
        command = [str(self.python), "-m", module, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment(), check=False).returncode


def prepare(kind: Kind) -> Rig:
    """Return a rig; make what of it is missing or outdated.

    Raises:
        RigUnavailable: If something it is made of cannot be had.
    """
    for tool in ("cc", "nm", "readelf"):
        if shutil.which(tool) is None:
            raise RigUnavailable(f"there is no {tool}")
    folder = _BUILD / kind
    folder.mkdir(parents=True, exist_ok=True)
    python = _install_cuda(folder) if kind == "cuda" else _install_npu(folder)
    stubs = folder / "stubs"
    sources = [*_HERE.glob("*.[ch]"), *_HERE.glob(f"{kind}/*.*"), *_HERE.glob("s*.py")]
    if _is_outdated(folder / "stubs.stamp", sources):
        shutil.rmtree(stubs, ignore_errors=True)
        stubs.mkdir()
        site_packages = _site_packages(python)
        if kind == "cuda":
            build_cuda_stubs(stubs, site_packages, folder / "headers/nvidia/cu13/include")
        else:
            build_npu_stubs(stubs, site_packages, _own_site_packages() / "torch")
        _stamp(folder / "stubs.stamp", sources)
    return Rig(kind=kind, python=python, stubs=stubs, kernels=folder / "kernels")


def _install_cuda(folder: Path) -> Path:
    """Install the CUDA build of torch without NVIDIA's libraries; return its Python."""
    packages, headers = _HERE / "cuda/requirements.txt", _HERE / "cuda/headers.txt"
    python = folder / "venv/bin/python"
    if _is_outdated(folder / "venv.stamp", [packages, headers]):
        _make_venv(folder / "venv", _find_python(_CUDA_PYTHON))
        _pip(python, "--requirement", str(packages))
        shutil.rmtree(folder / "headers", ignore_errors=True)
        _pip(python, "--target", str(folder / "headers"), "--requirement", str(headers))
        _stamp(folder / "venv.stamp", [packages, headers])
    return python


def _install_npu(folder: Path) -> Path:
    """Install torch_npu on top of the project's environment; return its Python."""
    packages = _HERE / "npu/requirements.txt"
    python = folder / "venv/bin/python"
    if _is_outdated(folder / "venv.stamp", [packages]):
        _make_venv(folder / "venv", sys.executable)
        _pip(python, "--requirement", str(packages))
        (_site_packages(python) / "project.pth").write_text(f"{_own_site_packages()}\n")
        _stamp(folder / "venv.stamp", [packages])
    return python


def _make_venv(folder: Path, python: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _try(python, "-m", "venv", str(folder))


def _pip(python: Path, *arguments: str) -> None:
    # Without dependencies: torch asks for 2 GB of NVIDIA's libraries, whose place stubs take.
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    _try(str(python), "-m", "pip", "install", *quiet, *arguments)


def _try(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RigUnavailable(f"`{' '.join(command)}` failed: {last}")


def _find_python(version: str) -> str:
    """Return a Python of a version: on the path, or one that pyenv keeps."""
    pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    given = os.environ.get(_CUDA_PYTHON_VARIABLE)
    for candidate in [given] if given else [f"python{version}", *map(str, pyenv)]:
        path = shutil.which(candidate)
        # A shim of pyenv's may be on the path and lead nowhere.
        if path and not subprocess.run([path, "--version"], capture_output=True).returncode:
            return path
    raise RigUnavailable(f"there is no Python {version}; name one in {_CUDA_PYTHON_VARIABLE}")


def _site_packages(python: Path) -> Path:
    return next(python.parents[1].glob("lib/python3*/site-packages"))


def _own_site_packages() -> Path:
    return _site_packages(Path(sys.executable))


def _is_outdated(stamp: Path, sources: Iterable[Path]) -> bool:
    return not stamp.exists() or stamp.read_text() != _digest(sources)


def _stamp(stamp: Path, sources: Iterable[Path]) -> None:
    stamp.write_text(_digest(sources))


def _digest(sources: Iterable[Path]) -> str:
    contents = b"".join(path.read_bytes() for path in sorted(sources))
    return hashlib.sha256(contents).hexdigest()
