"""After the warm-up of the 14B model, no size of a clip makes the compiler start again."""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from triton import knobs

from ranks.device import Device, open_device
from ranks.environment import set_environment_defaults
from ranks.families.wan21_i2v import ImageToVideo
from ranks.model.kernels import KernelForm
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.model.vae import GivenClip, decode_chunks, encode_chunks
from ranks.model.vae_bfloat16 import install_bfloat16
from ranks.parallel.layout import split_evenly
from ranks.parallel.ulysses import SequenceGroup
from ranks.sampling.denoise import Guidance, Predictor
from ranks.warm_up import warm_up, warm_up_vae
from tests.bench.random_models import REAL, make_transformer, make_vae
from tests.rehearsal.engine_rank import say

FORMS: tuple[KernelForm, ...] = ("triton", "compiled")
NUM_TEXT_TOKENS, NUM_IMAGE_TOKENS = 512, 257
FAMILY = ImageToVideo()
SHAPES: tuple[LatentShape, ...] = (
    (21, 90, 160),
    (31, 90, 160),
    (7, 8, 8),
    (21, 60, 104),
    (9, 104, 60),
    (13, 62, 74),
)
"""81 and 121 frames at 1280*720, the smallest clip, 832*480, a portrait, and an odd size: the
numbers of tokens span those of any rank's share."""


def main() -> int:
    """Return 0 if nothing is compiled after the warm-up; the compiler raises if it is."""
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder, torch.inference_mode():
        set_environment_defaults(Path(folder))
        device = open_device(sys.argv[1], 0, 1)
        if (chosen := device.choose_kernels()) != "triton":
            say(f"  kernels in Triton were not chosen, but {chosen} ones")
            return 1
        model = make_transformer(REAL, device.torch_device, device.model_dtype)
        with device.attention_order():
            for form in FORMS:
                _try_form(ShardTransformer(model, device.attention_backend, kernels=form), device)
                say(f"  {form} kernels: {len(SHAPES)} sizes and no recompile")
            _try_vae(device)
            say(f"  the VAE in bfloat16: {len(SHAPES)} sizes and no recompile")
    return 0


def _try_form(transformer: ShardTransformer, device: Device) -> None:
    torch._dynamo.config.error_on_recompile = False
    knobs.runtime.jit_post_compile_hook = None
    warm_up(FAMILY, transformer, device.torch_device, NUM_IMAGE_TOKENS)
    torch._dynamo.config.error_on_recompile = True
    knobs.runtime.jit_post_compile_hook = _refuse
    for shape in SHAPES:
        _predict(transformer, device, shape)


def _try_vae(device: Device) -> None:
    vae = nn.Module.to(make_vae(REAL, device.torch_device), torch.bfloat16)
    install_bfloat16(vae, is_compiled=True)
    torch._dynamo.config.error_on_recompile = False
    knobs.runtime.jit_post_compile_hook = None
    warm_up_vae(vae)
    torch._dynamo.config.error_on_recompile = True
    knobs.runtime.jit_post_compile_hook = _refuse
    for _, height, width in SHAPES:
        empty = partial(torch.empty, dtype=torch.bfloat16, device=device.torch_device)
        for _ in encode_chunks(vae, GivenClip(9, empty(1, 3, 8 * height, 8 * width))):
            pass
        for _ in decode_chunks(vae, empty(1, vae.config.z_dim, 3, height, width)):
            pass


def _refuse(**kernel: Any) -> None:
    raise AssertionError(f"Triton compiles again: {kernel['repr']}")


def _predict(transformer: ShardTransformer, device: Device, shape: LatentShape) -> None:
    """Take one step of a clip of a size."""
    config = transformer.model.config
    dtype, target = transformer.dtype, device.torch_device
    text = torch.empty(1, NUM_TEXT_TOKENS, config.text_dim, dtype=dtype, device=target)
    image = torch.empty(1, NUM_IMAGE_TOKENS, config.image_dim, device=target)
    latents = torch.zeros(1, config.out_channels, *shape, device=target)
    others = config.in_channels - config.out_channels
    predictor = Predictor(
        family=FAMILY,
        transformer=transformer,
        condition=torch.empty(1, others, *shape, device=target),
        guidance=Guidance(
            guidance_scale=1.0, conditions={0: transformer.condition(text, image)}, group=None
        ),
        sequence=SequenceGroup(None, split_evenly(transformer.num_tokens(shape), 1), 0),
        rope=transformer.rope_tables(shape, target),
        timestep_rows=None,
        cache=None,
    )
    predictor.predict(0, torch.tensor(900), latents)


if __name__ == "__main__":
    sys.exit(main())
