"""Bytes moved by the element-wise operations of a block: `python -m tests.bench.kernel_bytes`.

The 14B model at 1280*720 with 81 frames, on the meta device. Plain, each operation reads its inputs
and writes its output; fused, each function of `ranks.model.kernels` does so once. Matrix products
and attention are the same in both and left out.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ranks.model import kernels
from ranks.model.block import install_forward
from ranks.model.kernels import Kernels
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.parallel.ulysses import Condition, SequenceGroup, Shard, install_attention
from tests.bench.cost import Clip
from tests.ranks.model.real_models import config_of, in_dtypes

SHAPE: LatentShape = (21, 90, 160)
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
        result = func(*args, **(kwargs or {}))
        is_left_out = self._is_in_kernel or any(mark in func.name() for mark in _LEFT_OUT)
        if not is_left_out and not _memories(result) & _memories(args):
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
    """Return the bytes that one block moves for one guidance branch."""
    with torch.device("meta"), torch.inference_mode():
        model = in_dtypes(
            WanTransformer3DModel.from_config(config_of("transformer") | {"num_layers": 1}),
            torch.bfloat16,
        )
        transformer = ShardTransformer(model, AttentionBackendName.NATIVE)
        moved = MovedBytes()
        if is_fused:
            install(model, moved)
        num_tokens = Clip().num_tokens
        cos, sin = transformer.rope_tables(SHAPE, torch.device("meta"))
        shard = Shard(
            sequence=SequenceGroup(None, [num_tokens], 0),
            rope_cos=cos,
            rope_sin=sin,
            branch=0,
            step=0,
            cache=None,
        )
        width = model.config.num_attention_heads * model.config.attention_head_dim
        text, image = (torch.empty(1, n, width, dtype=torch.bfloat16) for n in (512, 257))
        hidden = torch.empty(1, num_tokens, width)
        condition = Condition(text, image)
        modulation = torch.empty(1, 6, width)
        model.blocks[0]([hidden], [(condition, shard)], modulation)  # keys and values, once a job
        moved.num_bytes = 0
        with moved:
            model.blocks[0]([hidden], [(condition, shard)], modulation)
    return moved.num_bytes


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


if __name__ == "__main__":
    main()
