"""The weights that the config of a VAE describes, as in diffusers' `AutoencoderKLWan`."""

from itertools import pairwise
from typing import Any

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def vae_shapes(config: Config) -> Shapes:
    """Return the shape of each weight by its name; none for a VAE with attention in its levels."""
    if config.get("attn_scales"):
        return {}
    latents = config.get("z_dim", 16)
    shapes = _convolution("quant_conv", 2 * latents, 2 * latents, (1, 1, 1))
    shapes |= _convolution("post_quant_conv", latents, latents, (1, 1, 1))
    shapes |= {f"encoder.{name}": shape for name, shape in _encoder(config).items()}
    return shapes | {f"decoder.{name}": shape for name, shape in _decoder(config).items()}


def _encoder(config: Config) -> Shapes:
    base, multiples = config.get("base_dim", 96), config.get("dim_mult", (1, 2, 4, 4))
    widths = [base * multiple for multiple in (1, *multiples)]
    in_time = config.get("temperal_downsample", (False, True, True))
    is_residual, num_res_blocks = config.get("is_residual"), config.get("num_res_blocks", 2)
    shapes = _convolution("conv_in", widths[0], config.get("in_channels", 3))
    number = 0
    for level, (width_in, width) in enumerate(pairwise(widths)):
        inputs = [width_in, *[width] * (num_res_blocks - 1)]
        for place, num_inputs in enumerate(inputs):
            name = (
                f"down_blocks.{level}.resnets.{place}" if is_residual else f"down_blocks.{number}"
            )
            shapes |= _residual(name, num_inputs, width)
            number += 1
        if level < len(multiples) - 1:
            name = f"down_blocks.{level}.downsampler" if is_residual else f"down_blocks.{number}"
            shapes |= _resampling(name, width, width, width if in_time[level] else None)
            number += 1
    return shapes | _middle_and_end(widths[-1], widths[-1], 2 * config.get("z_dim", 16))


def _decoder(config: Config) -> Shapes:
    base = config.get("decoder_base_dim") or config.get("base_dim", 96)
    multiples = list(config.get("dim_mult", (1, 2, 4, 4)))
    widths = [base * multiple for multiple in (multiples[-1], *reversed(multiples))]
    in_time = list(reversed(config.get("temperal_downsample", (False, True, True))))
    is_residual, num_res_blocks = config.get("is_residual"), config.get("num_res_blocks", 2)
    shapes = _convolution("conv_in", widths[0], config.get("z_dim", 16))
    for level, (above, width) in enumerate(pairwise(widths)):
        # The plain upsampling halves the width.
        width_in = above if is_residual or level == 0 else above // 2
        inputs = [width_in, *[width] * num_res_blocks]
        for place, num_inputs in enumerate(inputs):
            shapes |= _residual(f"up_blocks.{level}.resnets.{place}", num_inputs, width)
        if level < len(multiples) - 1:
            name = f"up_blocks.{level}.{'upsampler' if is_residual else 'upsamplers.0'}"
            after = width if is_residual else width // 2
            shapes |= _resampling(name, width, after, 2 * width if in_time[level] else None)
    return shapes | _middle_and_end(widths[0], widths[-1], config.get("out_channels", 3))


def _middle_and_end(width: int, last_width: int, num_outputs: int) -> Shapes:
    shapes = _residual("mid_block.resnets.0", width, width)
    shapes |= _residual("mid_block.resnets.1", width, width)
    attention = "mid_block.attentions.0"
    shapes[f"{attention}.norm.gamma"] = (width, 1, 1)
    shapes |= _convolution(f"{attention}.to_qkv", 3 * width, width, (1, 1))
    shapes |= _convolution(f"{attention}.proj", width, width, (1, 1))
    shapes["norm_out.gamma"] = (last_width, 1, 1, 1)
    return shapes | _convolution("conv_out", num_outputs, last_width)


def _residual(name: str, num_inputs: int, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.norm1.gamma": (num_inputs, 1, 1, 1)}
    shapes[f"{name}.norm2.gamma"] = (width, 1, 1, 1)
    shapes |= _convolution(f"{name}.conv1", width, num_inputs)
    shapes |= _convolution(f"{name}.conv2", width, width)
    if num_inputs != width:
        shapes |= _convolution(f"{name}.conv_shortcut", width, num_inputs, (1, 1, 1))
    return shapes


def _resampling(name: str, width: int, after: int, after_in_time: int | None) -> Shapes:
    shapes = _convolution(f"{name}.resample.1", after, width, (3, 3))
    if after_in_time is not None:
        shapes |= _convolution(f"{name}.time_conv", after_in_time, width, (3, 1, 1))
    return shapes


def _convolution(
    name: str, num_outputs: int, num_inputs: int, kernel: tuple[int, ...] = (3, 3, 3)
) -> Shapes:
    return {
        f"{name}.weight": (num_outputs, num_inputs, *kernel),
        f"{name}.bias": (num_outputs,),
    }
