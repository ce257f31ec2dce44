"""The VAEs of Wan2.1 and Wan2.2 in their original files: names of the weights, and the config."""

import math
import re
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]

VAE_WHOLE = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "encoder.head.0": "encoder.norm_out",
    "decoder.head.0": "decoder.norm_out",
    "encoder.head.2": "encoder.conv_out",
    "decoder.head.2": "decoder.conv_out",
}

VAE_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}

VAE_MIDDLE = {
    "0": "mid_block.resnets.0",
    "1": "mid_block.attentions.0",
    "2": "mid_block.resnets.1",
}

_RESAMPLING = ("resample.1", "time_conv")

_PART = re.compile(r"(encoder|decoder)\.(middle|downsamples|upsamples)\.(\d+)\.(.+)")
_INNER_PART = re.compile(r"(?:down|up)samples\.(\d+)\.(.+)")

_LATENTS_MEAN_22 = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
    *(-0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825),
    *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230),
    *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748),
    *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
_LATENTS_STD_22 = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013),
    *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
    *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
    *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
    *(0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)
_LATENTS_21: dict[str, Any] = {
    "latents_mean": [
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ],
    "latents_std": [
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ],
}
LATENTS_22: dict[str, Any] = {
    "latents_mean": list(_LATENTS_MEAN_22),
    "latents_std": list(_LATENTS_STD_22),
}
"""Sources: `wan/modules/vae.py` of Wan2.1 and `wan/modules/vae2_2.py` of Wan2.2."""


def vae_names(name: str, num_res_blocks: int, is_residual: bool) -> tuple[str] | None:
    """Return the name in `AutoencoderKLWan`; None: it has no such weight.

    Args:
        name: Name in the file.
        num_res_blocks: Residual blocks of a level of the encoder; the decoder has one more.
        is_residual: Whether it is the VAE of Wan2.2, whose levels are modules.
    """
    module, _, kind = name.rpartition(".")
    if module in VAE_WHOLE:
        return (f"{VAE_WHOLE[module]}.{kind}",)
    match = _PART.fullmatch(module)
    if match is None:
        return None
    side, part, number, inner = match.groups()
    if part == "middle":
        block, place = VAE_MIDDLE.get(number), inner
    elif is_residual:
        block, place = _nested(side, number, inner)
    else:
        block, place = _flat(side, int(number), num_res_blocks), inner
    return None if block is None else (f"{side}.{block}.{VAE_RESIDUAL.get(place, place)}.{kind}",)


def vae_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the config of `AutoencoderKLWan` that the shapes in a file imply.

    Raises:
        LookupError: If it is not the file of a VAE.
    """
    is_residual = any(".downsamples.0.downsamples." in name for name in shapes)
    levels = _levels(shapes, is_residual)
    base_dim, in_channels = shapes["encoder.conv1.weight"][:2]
    decoder_dim, latents = shapes["decoder.head.0.gamma"][0], shapes["conv2.weight"][0]
    patch = math.isqrt(in_channels // 3)
    # The last level does not resample.
    in_time = [any("time_conv" in name for name in level) for level in levels[:-1]]
    side = 2 ** len(in_time) * patch
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": base_dim,
        "decoder_base_dim": None if decoder_dim == base_dim else decoder_dim,
        "z_dim": latents,
        "dim_mult": [_width(shapes, level) // base_dim for level in levels],
        "num_res_blocks": sum(name.endswith("residual.2.weight") for name in levels[0]),
        "attn_scales": [],
        "temperal_downsample": in_time,
        "is_residual": is_residual,
        "in_channels": in_channels,
        "out_channels": shapes["decoder.head.2.weight"][0],
        "patch_size": None if patch == 1 else patch,
        "scale_factor_temporal": 2 ** sum(in_time),
        "scale_factor_spatial": side,
        **(LATENTS_22 if is_residual else _LATENTS_21),
    }


def _levels(shapes: Mapping[str, Shape], is_residual: bool) -> list[list[str]]:
    """Return the names of the encoder's weights by level, from the picture to the latents."""
    parts: dict[int, list[str]] = {}
    for name in shapes:
        if match := re.match(r"encoder\.downsamples\.(\d+)\.", name):
            parts.setdefault(int(match[1]), []).append(name)
    levels: list[list[str]] = [[]]
    for number in sorted(parts):
        levels[-1] += parts[number]
        if is_residual or any(".resample." in name for name in parts[number]):
            levels.append([])
    return [level for level in levels if level]


def _width(shapes: Mapping[str, Shape], level: list[str]) -> int:
    return max(shapes[name][0] for name in level if name.endswith("residual.6.weight"))


def _flat(side: str, number: int, num_res_blocks: int) -> str:
    if side == "encoder":
        return f"down_blocks.{number}"
    level, place = divmod(number, num_res_blocks + 2)
    inner = f"resnets.{place}" if place <= num_res_blocks else "upsamplers.0"
    return f"up_blocks.{level}.{inner}"


def _nested(side: str, level: str, inner: str) -> tuple[str | None, str]:
    match = _INNER_PART.fullmatch(inner)
    if match is None:
        return None, inner
    number, place = match.groups()
    blocks = "down_blocks" if side == "encoder" else "up_blocks"
    if place in _RESAMPLING:
        return f"{blocks}.{level}.{'downsampler' if side == 'encoder' else 'upsampler'}", place
    return f"{blocks}.{level}.resnets.{number}", place
