"""The published wheel of torch_npu: any machine can read it, no machine here could import it.

It is kept under build/. Where it cannot be had, the tests that need it are skipped and say so.
"""

import ast
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import yaml

TORCH_NPU = "2.13.0"

_FOLDER = Path(__file__).parents[1] / "build" / f"torch_npu-{TORCH_NPU}"

# Any machine can read the wheel, so it need not be the one for this machine.
_DOWNLOAD = [
    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
    *("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"),
    *("--retries", "0", "--timeout", "20", "--dest", str(_FOLDER), f"torch_npu=={TORCH_NPU}"),
]

# Operators are listed in two files, under several keys; those under other keys are not aten's.
_OPERATOR_FILES = ("npu_native_functions.yaml", "npu_native_functions_by_codegen.yaml")
_OPERATOR_KEYS = ("supported", "quant", "autograd")


def open_wheel() -> zipfile.ZipFile:
    """Open the wheel, or skip the test."""
    if not list(_FOLDER.glob("*.whl")):
        try:
            subprocess.run(_DOWNLOAD, check=True, capture_output=True, text=True, timeout=120)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"the wheel of torch_npu {TORCH_NPU} cannot be downloaded: {error}")
    (path,) = _FOLDER.glob("*.whl")
    return zipfile.ZipFile(path)


def native_operators(wheel: zipfile.ZipFile) -> set[str]:
    """Return the names, as in `add.Tensor`, of aten's operators that have a kernel on an NPU."""
    return {
        # Either a name, or a whole schema.
        (entry if isinstance(entry, str) else entry["func"]).partition("(")[0]
        for file in _OPERATOR_FILES
        for key, entries in yaml.safe_load(wheel.read(f"torch_npu/csrc/aten/{file}")).items()
        if key in _OPERATOR_KEYS
        for entry in entries
    }


def function_source(wheel: zipfile.ZipFile, path: str, name: str) -> str:
    """Return the source of a function, without the indentation of what it stands in."""
    source = wheel.read(path).decode()
    (function,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    segment = ast.get_source_segment(source, function, padded=True)
    assert segment is not None
    return textwrap.dedent(segment)
