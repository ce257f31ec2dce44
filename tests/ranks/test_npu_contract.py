"""Checks every torch_npu name that the ranks use against the published wheel.

The wheel is read, never imported: without Ascend's runtime it cannot be.
"""

import ast
import inspect
import re
import textwrap
import zipfile
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from diffusers.models import attention_dispatch

from ranks import device
from ranks.environment import DEFAULTS
from ranks.model import quantized_linear, vendor_kernels
from tests.torch_npu_wheel import TORCH_NPU, open_wheel

LIBRARY = "torch_npu/lib/libtorch_npu.so"
KINDS = {
    "npu_rms_norm": ["Tensor", "Tensor", "float"],
    "npu_rotary_mul": ["Tensor", "Tensor", "Tensor", "str"],
}
"""Of the arguments that the ranks pass."""
SCHEMAS = "torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml"


@pytest.fixture(scope="module")
def wheel() -> Iterator[zipfile.ZipFile]:
    with open_wheel() as opened:
        yield opened


@pytest.fixture(scope="module")
def library(wheel: zipfile.ZipFile) -> bytes:
    return wheel.read(LIBRARY)


def called_on_the_runtime() -> list[ast.Call]:
    """Return the calls `_runtime(kind).name(...)` and `torch.npu.name(...)` in `ranks.device`."""
    receivers = {"_runtime(kind)", "_runtime(self.kind)", "torch.npu"}
    return [
        node
        for node in ast.walk(ast.parse(inspect.getsource(device)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in receivers
    ]


def functions_of(wheel: zipfile.ZipFile) -> dict[str, inspect.Signature]:
    """Return the signatures of `torch.npu`'s functions by name; every default is None."""
    found = {}
    for path in wheel.namelist():
        if re.fullmatch(r"torch_npu/npu/\w+\.py", path):
            for node in ast.parse(wheel.read(path)).body:
                if isinstance(node, ast.FunctionDef):
                    found[node.name] = _signature(node.args)
    return found


def _signature(arguments: ast.arguments) -> inspect.Signature:
    names = [argument.arg for argument in arguments.args]
    num_required = len(names) - len(arguments.defaults)
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if index < num_required else None,
            )
            for index, name in enumerate(names)
        ]
    )


def exported_by(wheel: zipfile.ZipFile) -> set[str]:
    tree = ast.parse(wheel.read("torch_npu/npu/__init__.py"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("torch_npu.npu has no __all__")


def test_the_device_layer_calls_functions_that_torch_npu_has(wheel: zipfile.ZipFile) -> None:
    calls = called_on_the_runtime()
    functions, exported = functions_of(wheel), exported_by(wheel)
    names = set()
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        names.add(call.func.attr)
        assert call.func.attr in exported
        # Raises TypeError if the arguments do not fit.
        functions[call.func.attr].bind(*call.args, **{str(k.arg): k.value for k in call.keywords})
    assert {"set_device", "device_count", "memory_reserved", "empty_cache"} <= names


def schema_of(operator: str, text: str) -> str:
    match = re.search(rf"\b{operator}\([^)]*\) -> [^\n\0]*", text)
    assert match, f"no schema of {operator}"
    return match.group()


def test_the_attention_kernel_takes_the_arguments_that_diffusers_passes(
    wheel: zipfile.ZipFile, library: bytes
) -> None:
    schema = schema_of("npu_fusion_attention", wheel.read(SCHEMAS).decode())
    assert schema.encode() in library  # as the operator is registered
    inputs, _, outputs = schema.partition(" -> ")
    names = re.findall(r"(\w+)(?==|,|\))", inputs)
    source = textwrap.dedent(inspect.getsource(attention_dispatch._native_npu_attention))
    (call,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "npu_fusion_attention"
    )
    assert names[:4] == ["query", "key", "value", "head_num"]
    assert len(call.args) == 4
    assert {keyword.arg for keyword in call.keywords} <= set(names)
    assert outputs.startswith("(Tensor, ")  # only the first output is used


def test_the_8_bit_kernels_take_the_arguments_that_the_ranks_pass(
    wheel: zipfile.ZipFile, library: bytes
) -> None:
    source = textwrap.dedent(inspect.getsource(quantized_linear.multiply_fused))
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.ops.npu.")
    ]
    found = {ast.unparse(call.func).rpartition(".")[2]: call for call in calls}
    assert set(found) == set(device._NPU_OPERATORS)
    for name, call in found.items():
        schema = schema_of(name, wheel.read(SCHEMAS).decode())
        assert schema.encode() in library  # as the operator is registered
        names = re.findall(r"(\w+)(?==|,|\))", schema.partition(" -> ")[0])
        assert len(call.args) == schema.partition("*")[0].count("Tensor ")
        assert {keyword.arg for keyword in call.keywords} <= set(names)


def test_the_element_wise_kernels_take_the_arguments_that_the_ranks_pass(
    wheel: zipfile.ZipFile, library: bytes
) -> None:
    calls = {
        ast.unparse(node.func).rpartition(".")[2]: node
        for node in ast.walk(ast.parse(inspect.getsource(vendor_kernels)))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.ops.npu.")
    }
    assert set(calls) == set(vendor_kernels.OPERATORS)
    for name, call in calls.items():
        schema = schema_of(name, wheel.read(SCHEMAS).decode())
        # As the operator is registered, where the first argument has another name.
        assert schema.replace("(Tensor self", "(Tensor input").encode() in library
        inputs = schema.partition("(")[2].split(", ")
        kinds = [text.split()[0] for text in inputs[: len(call.args)]]
        assert kinds == KINDS[name]


@pytest.mark.parametrize(
    "method",
    [
        *("allgather", "_allgather_base", "allreduce", "alltoall_base", "broadcast", "send"),
        *("recv", "reduce_scatter"),
    ],
)
def test_the_process_group_has_the_collectives_that_the_ranks_use(
    method: str, library: bytes
) -> None:
    # As the C++ compiler spells `ProcessGroupHCCL::method`.
    assert f"16ProcessGroupHCCL{len(method)}{method}".encode() in library


def test_the_backend_is_called_hccl(wheel: zipfile.ZipFile) -> None:
    registry = wheel.read("torch_npu/_init/registry/distributed.py").decode()
    assert re.search(r"register_backend\(\s*[\"']hccl[\"']", registry)
    assert device._BACKENDS["npu"] == "hccl"


def test_torch_npu_reads_the_variables_that_are_meant_for_it(library: bytes) -> None:
    # Ascend's own libraries, which are in no wheel, read the others.
    own = {"PYTORCH_NPU_ALLOC_CONF", "TASK_QUEUE_ENABLE", "CPU_AFFINITY_CONF"}
    own |= {"HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"}
    assert own <= set(DEFAULTS)
    assert not {name for name in own if name.encode() not in library}


def test_torch_npu_fits_the_installed_torch(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"torch_npu-{TORCH_NPU}.dist-info/METADATA").decode()
    (wanted,) = re.findall(r"^Requires-Dist: torch==([\d.]+)\.\*$", metadata, re.MULTILINE)
    assert version("torch").startswith(wanted)


def test_torch_loads_torch_npu_by_itself(wheel: zipfile.ZipFile) -> None:
    entries = wheel.read(f"torch_npu-{TORCH_NPU}.dist-info/entry_points.txt").decode()
    assert re.search(r"\[torch\.backends\]\s*torch_npu = ", entries)
