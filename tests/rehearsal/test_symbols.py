import re
from pathlib import Path

import pytest

from tests.rehearsal.cuda.stubs import library_of
from tests.rehearsal.npu.stubs import is_vendors, with_workspaces
from tests.rehearsal.symbols import Symbol, names_in, parse_defined, parse_undefined


def test_undefined_symbols_are_read_with_their_versions() -> None:
    text = (
        "\nlibtorch_cuda.so:\n"
        "                 U cudaMalloc@libcudart.so.13\n"
        "                 U ncclSend\n"
        "                 w __gmon_start__\n"
    )
    assert parse_undefined(text) == {Symbol("cudaMalloc", "libcudart.so.13"), Symbol("ncclSend")}


def test_defined_names_are_read_without_their_versions() -> None:
    text = "0000000000001139 T cudaMalloc@@libcudart.so.13\n0000000000001140 T ncclSend\n"
    assert parse_defined(text) == {"cudaMalloc", "ncclSend"}


@pytest.mark.parametrize(
    ("symbol", "library"),
    [
        ("cudaMalloc", "libcudart"),
        ("__cudaRegisterFatBinary", "libcudart"),
        ("cuMemCreate", "libcuda"),
        ("cuFileRead", "libcufile"),
        ("cublasLtMatmul", "libcublasLt"),
        ("cublasCreate_v2", "libcublas"),
        ("cusparseLtInit", "libcusparseLt"),
        ("nvshmemx_mc_ptr", "libnvshmem_host"),
        ("cummax_helper", None),
        ("PyList_New", None),
        ("_ZN2at4cuda5emptyEv", None),
    ],
)
def test_a_function_of_nvidias_is_looked_for_in_its_library(
    symbol: str, library: str | None
) -> None:
    assert library_of(symbol) == library


def test_names_for_dlsym_are_found_in_binaries(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(b"\x00aclnnAdd\x00\xffaclnnMul\x00aclnn\x00x")
    assert names_in([path], re.compile(rb"\baclnn[A-Z]\w+\b")) == {"aclnnAdd", "aclnnMul"}


def test_an_operator_comes_with_the_function_that_asks_for_its_workspace() -> None:
    pair = {"aclnnAdd", "aclnnAddGetWorkspaceSize"}
    assert with_workspaces({"aclnnAdd"}) == with_workspaces({"aclnnAddGetWorkspaceSize"}) == pair


def test_functions_of_python_and_of_the_system_are_not_canns() -> None:
    assert not any(map(is_vendors, ("PyList_New", "_PyErr_Fetch", "pthread_create", "dlopen")))
    assert is_vendors("aclrtMalloc")
