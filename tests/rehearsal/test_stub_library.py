import ctypes
import shutil
from pathlib import Path

import pytest
import safetensors
import torch

from tests.rehearsal.sparse_model import in_parts, write_sparse
from tests.rehearsal.stub_library import build, build_alias, generated_c, version_script
from tests.rehearsal.symbols import Symbol, defined


def test_generated_functions_succeed() -> None:
    assert generated_c({"b", "a"}) == ("long a(void) { return 0; }\nlong b(void) { return 0; }\n")


def test_symbols_get_the_version_nodes_they_are_looked_up_by() -> None:
    symbols = {Symbol("b", "V1"), Symbol("a", "V1"), Symbol("c", "V2"), Symbol("d")}
    assert version_script(symbols) == "V1 { global: a; b; };\nV2 { global: c; };\n"


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("nm")), reason="no C compiler")
def test_a_stub_library_has_written_and_generated_functions(tmp_path: Path) -> None:
    source = tmp_path / "source.c"
    source.write_text("int answer(void) { return 42; }\n")
    library = tmp_path / "libstub.so.1"
    build(library, {Symbol("answer", "V1"), Symbol("nothing")}, source)
    build_alias(tmp_path / "libalias.so", library)
    assert defined([library]) >= {"answer", "nothing"}
    loaded = ctypes.CDLL(str(library))
    assert loaded.answer() == 42
    assert loaded.nothing() == 0


def test_a_sparse_file_has_tensors_and_takes_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with torch.device("meta"):
        tensors = [("a", torch.empty(1024, 1024)), ("b", torch.empty(3, dtype=torch.bfloat16))]
    write_sparse(path, tensors)
    assert path.stat().st_blocks * 512 < 2**20 < path.stat().st_size
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.get_slice("a").get_shape() == [1024, 1024]
        assert file.get_tensor("b").tolist() == [0, 0, 0]


def test_weights_are_spread_over_files_of_a_few_gigabytes() -> None:
    with torch.device("meta"):
        tensors = [(str(n), torch.empty(2**29)) for n in range(5)]
    assert [len(part) for part in in_parts(tensors)] == [3, 2]
