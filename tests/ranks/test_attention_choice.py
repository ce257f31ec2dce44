"""The rule that chooses attention kernels, held against the published interfaces as data.

No kernel here can be run: their packages need a GPU.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from torch.nn.attention import (
    _fa3,
    _fa4,
    current_flash_attention_impl,
    list_flash_attention_impls,
)

from broker.wire.model_profile import ModelProfile
from ranks import attention_choice
from ranks.attention_choice import activate, choose_attention, module_names, require_sage
from ranks.device import Device, require_attention
from ranks.errors import DeviceError
from ranks.kernel_report import kernel_report, require_same_attention
from ranks.model_files.profiles import with_attention

FA3, FA4 = "flash_attn_interface", "flash_attn.cute.interface"

# Of flash-attn-4 4.0.0b36 on PyPI, `flash_attn/cute/interface.py`: the forward pass.
FLASH_ATTENTION_4 = {
    *("q", "k", "v", "qv", "cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k"),
    *("max_seqlen_q", "max_seqlen_k", "min_seqlen_k", "page_table", "softmax_scale", "causal"),
    *("softcap", "window_size_left", "window_size_right", "learnable_sink", "num_splits"),
    *("pack_gqa", "score_mod", "mask_mod", "return_lse", "out", "lse", "aux_tensors"),
}
# Of SageAttention 2.2.0, `sageattention/core.py`: `sageattn`, which takes other keywords, too.
SAGE_ATTENTION = {"q", "k", "v", "tensor_layout", "is_causal", "sm_scale", "return_lse"}


@pytest.mark.parametrize(
    ("major", "installed", "expected"),
    [
        (9, set(), "torch"),
        (9, {FA4}, "flash4"),
        (9, {FA3}, "flash3"),
        (9, {FA3, FA4}, "flash3"),
        (10, {FA3, FA4}, "flash4"),
        (10, {FA3}, "torch"),
        (8, {FA3, FA4}, "torch"),
        (12, {FA3, FA4}, "torch"),
    ],
)
def test_attention_is_chosen_by_what_is_installed_and_what_the_gpu_can_do(
    major: int, installed: set[str], expected: str
) -> None:
    assert choose_attention("exact", (major, 0), installed) == expected
    assert choose_attention("sage", (major, 0), installed) == "sage"


def test_torch_knows_the_kernels_for_the_same_gpus() -> None:
    assert {"FA3", "FA4"} <= set(list_flash_attention_impls())
    assert set(module_names()) == {_default(_fa3.register_flash_attention_fa3), FA4}
    assert _default(_fa4.register_flash_attention_fa4) == FA4
    for flash, module in zip(attention_choice._FLASH, (_fa3, _fa4), strict=True):
        (condition,) = re.findall(
            r"_get_device_major\(query\.device\) (?:!= |not in )(.*):", inspect.getsource(module)
        )
        assert set(flash.majors) <= set(map(int, re.findall(r"\d+", condition)))


def _default(function: Callable[..., Any]) -> Any:
    return inspect.signature(function).parameters["module_path"].default


def test_the_published_kernels_take_what_torch_and_diffusers_pass() -> None:
    given = ast.parse(inspect.getsource(_fa4._fa4_run_forward))
    (keywords,) = (node for node in ast.walk(given) if isinstance(node, ast.Dict))
    names = {key.value for key in keywords.keys if isinstance(key, ast.Constant)}
    assert "softmax_scale" in names
    assert names <= FLASH_ATTENTION_4
    calls = [
        node
        for node in ast.walk(
            ast.parse(textwrap.dedent(inspect.getsource(attention_dispatch._sage_attention)))
        )
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sageattn"
    ]
    assert {keyword.arg for call in calls for keyword in call.keywords} == SAGE_ATTENTION


def test_kernels_that_are_installed_but_broken_leave_torch_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"{FA3}.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert FA3 in attention_choice.installed_modules()
    assert activate("flash3", lambda: None) == "torch"
    assert current_flash_attention_impl() is None
    (record,) = caplog.records
    assert record.getMessage() == (
        "FlashAttention-3 is installed but does not work, so torch's own attention computes: "
        "libcudart.so.12: cannot open"
    )


def test_sage_is_refused_in_one_sentence_where_it_cannot_run() -> None:
    with pytest.raises(DeviceError, match=r"needs NVIDIA GPUs, and the ranks use npu; leave "):
        require_attention("npu", "sage")
    require_attention("npu", "exact")
    with pytest.raises(DeviceError, match=r"2\.1\.1 or later is needed, and this Python has none"):
        require_sage()


@pytest.mark.parametrize(("version", "is_enough"), [("1.0.6", False), ("2.2.0.post1", True)])
def test_sage_must_be_as_new_as_diffusers_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_enough: bool
) -> None:
    assert attention_dispatch._REQUIRED_SAGE_VERSION == "2.1.1"
    metadata = tmp_path / f"sageattention-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: sageattention\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if is_enough:
        require_sage()
    else:
        with pytest.raises(DeviceError, match=r"this Python has 1\.0\.6; install it from "):
            require_sage()


def test_ranks_that_chose_differently_do_not_start() -> None:
    require_same_attention("flash4", "flash4")
    with pytest.raises(DeviceError, match=r"by torch's own here, but by FlashAttention-4 on rank"):
        require_same_attention("torch", "flash4")


def test_cross_attention_computes_the_same_in_its_own_order_of_kernels() -> None:
    device = Device(kind="cuda", index=0, attention="sage")
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, n, 2, 8, generator=generator) for n in (9, 5, 5))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    ).transpose(1, 2)
    assert torch.equal(device.attend_across(query, key, value), expected)


def test_the_report_tells_what_computes_and_whether_it_is_slow() -> None:
    fast = kernel_report(Device(kind="cuda", index=0, kernels="triton", attention="sage"))
    assert (fast.element_wise, fast.attention) == ("triton", "SageAttention (lossy)")
    slow = kernel_report(Device(kind="cuda", index=0))
    on_cpu = kernel_report(Device(kind="cpu", index=0))
    assert (fast.is_slow, slow.is_slow, on_cpu.is_slow) == (False, True, False)


def test_a_model_with_lossy_attention_is_another_one_to_checkpoints() -> None:
    model = ModelProfile(content_hash="m1")
    assert with_attention(model, "exact") == model
    lossy = with_attention(model, "sage")
    assert lossy.attention == "sage"
    assert lossy.content_hash != model.content_hash
