"""Bytes moved by the element-wise operations of a block: `python -m tests.bench.kernel_bytes`.

The 14B model at 1280*720 with 81 frames, on the meta device. Plain, each operation reads its inputs
and writes its output; fused, each function of `ranks.model.kernels` does so once. Matrix products
and attention are the same in both and left out.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ranks.model import kernels
from ranks.model.block import Stream, install_forward
from ranks.model.kernels import FORM_NAMES, KernelForm, Kernels
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.parallel.ulysses import Condition, SequenceGroup, Shard, install_attention
from tests.bench.cost import Clip
from tests.ranks.model.real_models import config_of, in_dtypes

SHAPE: LatentShape = (21, 90, 160)
NUM_SHARDS = 4
"""Ranks that share a sequence, if eight compute both branches."""
OPERATORS = Path(__file__).parents[1] / "npu/site/torch_npu/elementwise.py"
_LEFT_OUT = ("linear", "attention", "empty")


class MovedBytes(TorchDispatchMode):
    """Counts the bytes that operators read and write while it is active.

    An operator whose result shares an input's memory moves none: a view, or a conversion to the
    same dtype.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0
        self._is_in_kernel = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if "scaled_dot_product_attention" in func.name():
            return torch.empty_like(args[0])  # laid out as the queries, as devices' kernels do it
        result = func(*args, **(kwargs or {}))
        is_left_out = self._is_in_kernel or any(mark in func.name() for mark in _LEFT_OUT)
        if not is_left_out and func._schema.is_mutable:
            self.num_bytes += _num_bytes(args)  # the result is one of them
        elif not is_left_out and not _memories(result) & _memories(args):
            self.num_bytes += _num_bytes((args, result))
        return result

    def as_kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that it counts as one operation."""

        def counted(*args: Any) -> Any:
            self._is_in_kernel = True
            result = function(*args)
            self._is_in_kernel = False
            self.num_bytes += _num_bytes((args, result))
            return result

        return counted


def block_bytes(*, is_fused: bool) -> int:
    """Return the bytes that one block moves for one guidance branch on one device."""
    moved = MovedBytes()
    with torch.device("meta"), torch.inference_mode():
        model = _one_block("plain")
        if is_fused:
            install(model.model, moved)
        num_tokens = Clip().num_tokens
        return _count(model, SequenceGroup(None, [num_tokens], 0), num_tokens, moved)


def npu_block_bytes(form: KernelForm) -> int:
    """Return the bytes that one block moves on one of eight NPUs, which has one guidance branch.

    What collectives move is left out, the copies before and after them are not.
    """
    define_operators()
    num_tokens = -(-Clip().num_tokens // NUM_SHARDS)
    sequence = _AloneAmongRanks(num_tokens)
    with torch.device("meta"), torch.inference_mode():
        return _count(_one_block(form), sequence, num_tokens, MovedBytes())


class _AloneAmongRanks(SequenceGroup):
    """One rank of several that share a sequence; nothing is sent."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(cast("dist.ProcessGroup", object()), [num_tokens] * NUM_SHARDS, 0)

    def _exchange(
        self, received: Tensor, sent: Tensor, received_sizes: list[int], sent_sizes: list[int]
    ) -> None:
        sent.contiguous()


def _one_block(form: KernelForm) -> ShardTransformer:
    model = in_dtypes(
        WanTransformer3DModel.from_config(config_of("transformer") | {"num_layers": 1}),
        torch.bfloat16,
    )
    return ShardTransformer(model, AttentionBackendName.NATIVE, kernels=form)


def _count(
    transformer: ShardTransformer, sequence: SequenceGroup, num_tokens: int, moved: MovedBytes
) -> int:
    model = transformer.model
    cos, sin = transformer.rope_tables(SHAPE, torch.device("meta"))
    shard = Shard(
        sequence=sequence,
        rope_cos=cos[:, :num_tokens],
        rope_sin=sin[:, :num_tokens],
        branch=0,
        step=0,
        cache=None,
    )
    width = model.config.num_attention_heads * model.config.attention_head_dim
    text, image, update = (
        torch.empty(1, n, width, dtype=torch.bfloat16) for n in (512, 257, num_tokens)
    )
    # As a block before it leaves them.
    stream = Stream(torch.empty(1, num_tokens, width), update, torch.empty(1, 1, width))
    condition = Condition(text, image)
    modulation = torch.empty(1, 6, width)
    model.blocks[0]([stream], [(condition, shard)], modulation)  # keys and values, once a job
    moved.num_bytes = 0
    with moved:
        model.blocks[0]([stream], [(condition, shard)], modulation)
    return moved.num_bytes


@cache
def define_operators() -> None:
    """Define torch_npu's operators on the meta device, as the stand-in NPU has them."""
    spec = importlib.util.spec_from_file_location("npu_elementwise", OPERATORS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module  # or its library would be gone, and the operators with it
    module.register()


def install(model: WanTransformer3DModel, moved: MovedBytes) -> None:
    """Replace the block's kernels by ones that count as one operation each."""
    counted = Kernels("plain")
    for name in ("modulate", "rotate", "add_and_norm", "add_and_modulate", "add"):
        setattr(counted, name, moved.as_kernel(getattr(kernels, name)))
    install_forward(model, counted)
    install_attention(model, AttentionBackendName.NATIVE, counted)


def _num_bytes(tree: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(tree))


def _memories(tree: Any) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in _tensors(tree)}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def main() -> None:
    num_blocks = config_of("transformer")["num_layers"]
    for name, is_fused in (("plain", False), ("fused", True)):
        moved = block_bytes(is_fused=is_fused)
        print(
            f"{name}: {moved / 1e9:6.1f} GB a block, {2 * num_blocks * moved / 1e12:5.2f} TB a step"
        )
    print("on one of eight NPUs, as cfg_size 2 and ulysses_size 4:")
    forms: tuple[KernelForm, ...] = ("plain", "vendor")
    for form in forms:
        moved = npu_block_bytes(form)
        print(
            f"{FORM_NAMES[form]}: {moved / 1e9:6.1f} GB a block, "
            f"{num_blocks * moved / 1e12:5.2f} TB a step"
        )


if __name__ == "__main__":
    main()
