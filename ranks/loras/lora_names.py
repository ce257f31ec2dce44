"""The names of tensors in LoRA files, in all the spellings that are in use.

A name is a prefix, the name of a module in the spelling of diffusers or of Wan, and a part:

    transformer.blocks.0.attn1.to_q.lora_A.weight           diffusers, peft
    diffusion_model.blocks.0.self_attn.q.lora_down.weight   ComfyUI, LightX2V
    lora_unet_blocks_0_self_attn_q.alpha                    kohya, musubi
    blocks.0.self_attn.q.lora_B.default.weight              DiffSynth
"""

import re
from collections.abc import Container
from enum import Enum
from typing import NamedTuple

from ranks.model_files.original_names import (
    TRANSFORMER_BLOCK,
    TRANSFORMER_WHOLE,
    transformer_names,
)


class Part(Enum):
    """What a tensor is to its module."""

    DOWN = "the first factor of a low-rank change"
    UP = "its second factor"
    UP_BIAS = "a change of the bias, with the factor of the low-rank change"
    ALPHA = "what the product is multiplied with, times its rank"
    DIFF = "a change of the whole weight"
    DIFF_BIAS = "a change of the bias"
    DIFF_TABLE = "a change of the modulation table"


class LoraKey(NamedTuple):
    """The name of a tensor, taken apart."""

    module: str
    part: Part
    expert: int | None
    """Index of the only transformer that it is for; None if the name does not say."""


_PARTS = (
    (re.compile(r"(.+)\.lora(?:_A|_down|\.down)(?:\.\w+)?\.weight"), Part.DOWN),
    (re.compile(r"(.+)\.lora(?:_B|_up|\.up)(?:\.\w+)?\.weight"), Part.UP),
    (re.compile(r"(.+)\.lora(?:_B|_up|\.up)(?:\.\w+)?\.bias"), Part.UP_BIAS),
    (re.compile(r"(.+)\.alpha"), Part.ALPHA),
    (re.compile(r"(.+)\.diff"), Part.DIFF),
    (re.compile(r"(.+)\.diff_b"), Part.DIFF_BIAS),
    (re.compile(r"(.+)\.diff_m"), Part.DIFF_TABLE),
)
_EXPERTS = {"transformer.": 0, "transformer_2.": 1}
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "base_model.model.", "model.")
_FLAT = "lora_unet_"
_FLAT_BLOCK = re.compile(r"blocks_(\d+)_(.+)")
_FLAT_MODULES = {
    name.replace(".", "_"): name
    for names in (TRANSFORMER_WHOLE, TRANSFORMER_BLOCK)
    for pair in names.items()
    for name in pair
}


def take_apart(name: str) -> LoraKey | None:
    """Return what the name of a tensor says; None if it has no known form."""
    expert = next((number for start, number in _EXPERTS.items() if name.startswith(start)), None)
    own = name.removeprefix("transformer.").removeprefix("transformer_2.")
    for prefix in _PREFIXES:
        own = own.removeprefix(prefix)
    for pattern, part in _PARTS:
        if match := pattern.fullmatch(own):
            module = match[1]
            if module.startswith(_FLAT):
                module = _dotted(module.removeprefix(_FLAT))
            return LoraKey(module, part, expert)
    return None


def weight_of(key: LoraKey, weights: Container[str]) -> str | None:
    """Return the weight that a tensor changes, as diffusers names it; None if there is none.

    Args:
        key: Of a tensor of any part but `ALPHA`.
        weights: Names of the transformer's weights.
    """
    match key.part:
        case Part.DOWN | Part.UP | Part.DIFF:
            names = [f"{key.module}.weight", *_translated(f"{key.module}.weight")]
            # A table is no module: it has no weight below it.
            names += [key.module, *_translated(key.module)]
        case Part.UP_BIAS | Part.DIFF_BIAS:
            names = [f"{key.module}.bias", *_translated(f"{key.module}.bias")]
        case _:
            names = [f"{key.module}.scale_shift_table", *_translated(f"{key.module}.modulation")]
    return next((name for name in names if name in weights), None)


def without_numbers(name: str) -> str:
    """Return the name for all blocks at once, for messages."""
    return re.sub(r"blocks([._])\d+([._])", r"blocks\1*\2", name)


def _translated(original: str) -> tuple[str, ...]:
    return transformer_names(original) or ()


def _dotted(flat: str) -> str:
    if match := _FLAT_BLOCK.fullmatch(flat):
        number, module = match.groups()
        return f"blocks.{number}.{_FLAT_MODULES.get(module, module)}"
    return _FLAT_MODULES.get(flat, flat)
