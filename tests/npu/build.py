"""Compiles the stand-in NPU, once for each state of its source and each version of torch."""

import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

MODULE = "npu_stand_in"
SOURCE = Path(__file__).parent / "device.cpp"
FOLDER = Path(__file__).parents[2] / "build" / "npu_stand_in"

_FLAGS = ("-std=c++20", "-O1", "-g0", "-w", "-shared", "-fPIC", "-fvisibility=hidden")
_LIBRARIES = ("-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python")


class NoCompilerError(Exception):
    """Raised when there is no C++ compiler."""


def build() -> Path:
    """Return the compiled extension module.

    Raises:
        NoCompilerError: If it has to be compiled and cannot be.
        subprocess.CalledProcessError: If the source does not compile.
    """
    path = FOLDER / f"{MODULE}-{_key()}.so"
    if not path.exists():
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            raise NoCompilerError("no C++ compiler: install g++, or set CXX")
        FOLDER.mkdir(parents=True, exist_ok=True)
        # Under a name of its own until it is whole: two runs of the tests may build at once.
        partial = path.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *_arguments(), "-o", str(partial)], check=True)
        partial.rename(path)
    return path


def _key() -> str:
    version = f"{torch.__version__} {sysconfig.get_config_var('SOABI')}"
    return hashlib.sha256(version.encode() + SOURCE.read_bytes()).hexdigest()[:16]


def _arguments() -> list[str]:
    package = Path(torch.__file__).parent
    include = package / "include"
    return [
        *_FLAGS,
        f"-DTORCH_EXTENSION_NAME={MODULE}",
        *(f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"),
        f"-I{sysconfig.get_path('include')}",
        str(SOURCE),
        f"-L{package / 'lib'}",
        *_LIBRARIES,
    ]
