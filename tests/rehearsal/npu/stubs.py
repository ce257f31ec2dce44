"""Builds one stub library of all that torch_npu takes of CANN, and its many names."""

import re
from pathlib import Path

from tests.rehearsal.stub_library import build, build_alias
from tests.rehearsal.symbols import Symbol, defined, names_in, needed_libraries, undefined

_SOURCE = Path(__file__).parent / "cann.c"
_WHOLE = "libascendcl.so"
"""The library that holds everything."""

# Loaded when an operator or a tool of theirs is first used; `needed_libraries` cannot know them.
_LOADED_BY_NAME = (
    *("libopapi.so", "libopapi_math.so", "libopapi_nn.so", "libopapi_cv.so"),
    *("libopapi_transformer.so", "libopapi_legacy.so", "libnnopbase.so", "libruntime.so"),
    *("libaclnn_math.so", "libaclnn_fft.so", "libaclnn_rand.so", "libaclnn_sparse.so"),
    *("libaclnn_ops_infer.so", "libaclnn_ops_train.so", "libascend_hal.so", "libascend_ml.so"),
    *("libascend_dump.so", "libhcomm.so", "libmsprofiler.so", "libmspti.so", "libms_tools_ext.so"),
    "libdcmi.so",
)
_NAME = re.compile(
    rb"\b(?:acl|aclrt|aclnn|aclop|aclprof|aclmdl|aclsys|aclQuery|Hccl|HcommMem|Msprof|Mspti|Mstx"
    rb"|mstx|adump|Adx|drv|rt)[A-Z]\w+\b"
)
_SYSTEM = re.compile(r"lib(?:c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\.\d+|ld-linux.*")


def build_stubs(folder: Path, site_packages: Path, torch: Path) -> None:
    """Build what the wheel of torch_npu needs.

    Args:
        folder: Where the libraries go, for LD_LIBRARY_PATH.
        site_packages: Where torch_npu is installed.
        torch: The folder of torch itself.
    """
    own = [*site_packages.glob("torch_npu/**/*.so*"), *site_packages.glob("torch_npu.libs/*")]
    others = [*torch.glob("lib/*.so*")]
    missing = {
        symbol.name
        for symbol in undefined(own) - {Symbol(name) for name in defined([*own, *others])}
        if not symbol.version and is_vendors(symbol.name)
    }
    names = missing | with_workspaces(names_in(own, _NAME))
    build(folder / _WHOLE, {Symbol(name) for name in names}, _SOURCE)
    present = {path.name for path in (*own, *others)}
    vendors = needed_libraries(own) - present
    for name in {*_LOADED_BY_NAME, *vendors} - {_WHOLE}:
        if not _SYSTEM.fullmatch(name):
            build_alias(folder / name, folder / _WHOLE)


def is_vendors(name: str) -> bool:
    """Return whether a function that no library here has may be CANN's."""
    return not re.match(r"_?Py|dl|pthread_|__|_ITM", name)


def with_workspaces(names: set[str]) -> set[str]:
    """Return names together with those looked up beside them: an operator is a pair."""
    suffix = "GetWorkspaceSize"
    bases = {name.removesuffix(suffix) for name in names if name.startswith("aclnn")}
    return names | bases | {base + suffix for base in bases}
