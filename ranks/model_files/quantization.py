"""Which weights of a transformer are held and multiplied as 8-bit numbers: the one place for it.

They are the linear layers within the blocks: projections of self- and cross-attention, and the
feed-forward. Left as they are: patch, text, time and image embeddings, modulation, norms, biases
and the output projection, a fiftieth of the weights; and as many blocks at either end as wanted.
Weights outside the blocks that a file holds as 8-bit numbers are turned into plain ones.
"""

from collections.abc import Iterable

import msgspec
from msgspec import structs

from broker.wire.model_profile import EightBit
from ranks.errors import ModelFolderError
from ranks.model_files.components import TRANSFORMERS, Component, ModelFiles

SIDE_MULTIPLE = 16
"""What both sides of an 8-bit matrix must be multiples of, as the kernels of CUDA want it."""

TOKENS_AT_ONCE = 4096
"""Tokens that are multiplied in one part, which bounds the memory of numbers in between."""

_WORK_ITEM_BYTES = 10
"""Of each number of such a part: as it comes, in float32, rounded, and its sums."""

_FORMS: dict[str, EightBit] = {"F8_E4M3": "fp8", "I8": "int8"}


class Quantize(msgspec.Struct, frozen=True):
    """What the operator asks for."""

    form: EightBit
    skipped_blocks: int = 0
    """Blocks at either end of each transformer that stay as they are."""


def work_bytes(longest_sides: Iterable[int]) -> int:
    """Return the memory that a product takes beside its input and its output."""
    return max(longest_sides, default=0) * TOKENS_AT_ONCE * _WORK_ITEM_BYTES


def with_quantization(files: ModelFiles, wanted: Quantize | None) -> ModelFiles:
    """Return a model whose transformers say which of their weights are 8-bit numbers.

    Args:
        files: The model.
        wanted: What is to be quantized as it is loaded; None: only what the files hold so.

    Raises:
        ModelFolderError: If its files are quantized in another way, or nothing would be quantized.
    """
    parts = {name: part for name, part in files.components.items() if name in TRANSFORMERS}
    quantized = {name: _quantized(part, wanted) for name, part in parts.items()}
    forms = {part.quantization for part in quantized.values()}
    if len(forms) > 1:
        raise ModelFolderError(
            f"{files.place} holds one transformer in {_spelled(quantized['transformer'])} and one "
            f"in {_spelled(quantized['transformer_2'])}; expected the same in both"
        )
    return structs.replace(files, components=files.components | quantized)


def _quantized(component: Component, wanted: Quantize | None) -> Component:
    linears = _linears(component)
    stored = {name for name in linears if component.weights[name].scale is not None}
    if not stored:
        return component if wanted is None else _to_quantize(component, linears, wanted)
    forms = sorted({_FORMS[component.weights[name].dtype] for name in stored})
    if len(forms) > 1:
        raise ModelFolderError(f"{component.place} holds weights in {' and in '.join(forms)}")
    if wanted is not None:
        raise ModelFolderError(
            f"{component.place} holds weights in {forms[0]} already; leave out --quantize"
        )
    for name in sorted(stored):
        if not _fits(component, name):
            raise ModelFolderError(
                f"{component.place} holds {name} of the shape "
                f"{list(component.weights[name].shape)} as 8-bit numbers; expected sides that are "
                f"multiples of {SIDE_MULTIPLE}"
            )
    return structs.replace(component, quantization=forms[0], quantized=frozenset(stored))


def _to_quantize(component: Component, linears: list[str], wanted: Quantize) -> Component:
    last = int(component.config["num_layers"]) - 1 - wanted.skipped_blocks
    chosen = frozenset(
        name
        for name in linears
        if wanted.skipped_blocks <= _block(name) <= last and _fits(component, name)
    )
    if not chosen:
        raise ModelFolderError(
            f"{component.place} has {component.config['num_layers']} blocks, and --quantize-skip "
            f"is {wanted.skipped_blocks}, so nothing is left to quantize; lower it"
        )
    return structs.replace(component, quantization=wanted.form, quantized=chosen)


def _linears(component: Component) -> list[str]:
    """Return the names of the matrices in the blocks."""
    return [
        name
        for name, where in component.weights.items()
        if name.startswith("blocks.") and name.endswith(".weight") and len(where.shape) == 2
    ]


def _block(name: str) -> int:
    return int(name.split(".")[1])


def _fits(component: Component, name: str) -> bool:
    return all(side % SIDE_MULTIPLE == 0 for side in component.weights[name].shape)


def _spelled(component: Component) -> str:
    return component.quantization or "plain numbers"
