"""Builds a stub of every library of NVIDIA's that torch and Triton load."""

import re
from pathlib import Path

from tests.rehearsal.stub_library import build
from tests.rehearsal.symbols import Symbol, names_in, needed_libraries, undefined

_HERE = Path(__file__).parent

# Libraries by the prefix of their functions; of two that match, the longer one counts.
_PREFIXES = {
    "cu": "libcuda",
    "cuFile": "libcufile",
    "cublas": "libcublas",
    "cublasLt": "libcublasLt",
    "cuda": "libcudart",
    "__cuda": "libcudart",
    "cudnn": "libcudnn",
    "cufft": "libcufft",
    "cupti": "libcupti",
    "curand": "libcurand",
    "cusolver": "libcusolver",
    "cusparse": "libcusparse",
    "cusparseLt": "libcusparseLt",
    "nccl": "libnccl",
    "nvrtc": "libnvrtc",
    "nvshmem": "libnvshmem_host",
}
_SOURCES = {
    "libcuda": "driver.c",
    "libcudart": "runtime.c",
    "libcudnn": "cudnn.c",
    "libcublas": "cublas.c",
    "libcublasLt": "cublas.c",
    "libnccl": "nccl.c",
    "libnvidia-ml": "nvml.c",
}
# Libraries that nothing is linked with, and the files that look functions up in them by name.
_LOOK_UP_BY_NAME = (
    "torch/lib/libc10_cuda.so",
    "torch/cuda/__init__.py",
    "triton/backends/nvidia/driver.c",
    "triton/backends/nvidia/driver.py",  # of the launchers that it writes
)
_DRIVER = "libcuda.so.1"
_NVML = "libnvidia-ml.so.1"
_DRIVER_NAME = re.compile(
    rb"\bcu(?:Ctx|Device|Dev|DevSm|Driver|Func|Get|GreenCtx|Init|Launch|Link|Mem|Module|Multicast"
    rb"|Occupancy|Pointer|Profiler|Stream|Tensor)[A-Z]?\w*\b"
)
_NVML_NAME = re.compile(rb"\bnvml[A-Z]\w+\b")


def library_of(symbol: str) -> str | None:
    """Return which library of NVIDIA's has a function; None if it is not of NVIDIA's."""
    prefixes = (prefix for prefix in _PREFIXES if re.match(rf"{prefix}[A-Za-z_]", symbol))
    found = max(prefixes, key=len, default=None)
    if found == "cu" and not symbol[2].isupper():
        return None
    return _PREFIXES[found] if found else None


def build_stubs(folder: Path, site_packages: Path, headers: Path) -> None:
    """Build the libraries that the wheels of torch and Triton need.

    Args:
        folder: Where they go, for LD_LIBRARY_PATH.
        site_packages: Where torch and Triton are installed.
        headers: Of the CUDA runtime.
    """
    binaries = [*site_packages.glob("torch/lib/*.so*"), *site_packages.glob("torch/*.so")]
    symbols = _by_library(binaries)
    callers = [site_packages / path for path in _LOOK_UP_BY_NAME]
    symbols["libcuda"] |= {Symbol(name) for name in names_in(callers, _DRIVER_NAME)}
    symbols["libnvidia-ml"] = {Symbol(name) for name in names_in(callers, _NVML_NAME)}
    needed = needed_libraries(binaries) | {_DRIVER, _NVML}
    for file_name in sorted(needed):
        stem = file_name.partition(".so")[0]
        if stem in symbols:
            source = _SOURCES.get(stem)
            path = _HERE / source if source else None
            build(folder / file_name, symbols[stem], path, includes=[headers])
    (folder / "libcuda.so").symlink_to(_DRIVER)  # Triton links what it compiles with it


def _by_library(binaries: list[Path]) -> dict[str, set[Symbol]]:
    symbols: dict[str, set[Symbol]] = {stem: set() for stem in _PREFIXES.values()}
    for symbol in undefined(binaries):
        if stem := library_of(symbol.name):
            symbols[stem].add(symbol)
    return symbols
