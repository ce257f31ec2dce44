"""The cost of a video: operations, bytes in memory, collectives and the bytes they send."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CONFIG = Path(__file__).parents[1] / "data" / "wan14b" / "transformer.json"
_TEXT_TOKENS = 512
_IMAGE_TOKENS = 257
_BYTES_OF_A_NUMBER = 2  # bfloat16
_BYTES_OF_A_RESULT = 4  # float32

VAE_ENCODE_FLOPS = 5.11e6
VAE_DECODE_FLOPS = 8.56e6
"""Operations per pixel of a frame at 1280*720; the attention in the middle grows with the frame."""

PLAIN_BYTES = 1.327e6
COMPILED_BYTES = 0.353e6
"""Bytes per token and block that element-wise operations move, counted by
`tests.bench.kernel_bytes`: one kernel per operation, and `ranks.model.kernels`.
"""
BFLOAT16_PLAIN_BYTES = 1.562e6
BFLOAT16_COMPILED_BYTES = 0.302e6
"""The same with tokens between blocks in bfloat16, as is assumed of all other software."""
NPU_BYTES = 0.644e6
"""On one of eight NPUs with `ranks.model.vendor_kernels`, counted likewise: 487 GB per step."""
MINDIE_BYTES = 0.66e6
"""An estimate for the vendor's own fused operators, with tokens between blocks in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video to make."""

    width: int = 1280
    height: int = 720
    num_frames: int = 81
    num_steps: int = 40
    num_branches: int = 2
    has_image: bool = True
    """Whether the model attends to an image; the text-to-video model does not."""

    @property
    def num_tokens(self) -> int:
        """Sequence length: a token is 16 by 16 pixels of four frames."""
        return (self.num_frames // 4 + 1) * (self.height // 16) * (self.width // 16)

    @property
    def num_token_blocks(self) -> int:
        """How often a forward pass takes a token through a block."""
        return self.num_tokens * _config()["num_layers"]

    @property
    def vae_flops(self) -> float:
        """Operations to encode the first frame, padded with grey frames, and to decode."""
        pixels = self.width * self.height * self.num_frames
        encode = VAE_ENCODE_FLOPS if self.has_image else 0.0
        return pixels * (encode + VAE_DECODE_FLOPS)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of matrix products; a multiplication with its addition counts as two."""

    attention: float
    linear: float

    @property
    def total(self) -> float:
        return self.attention + self.linear


def forward_flops(clip: Clip, *, is_reused: bool = False) -> Flops:
    """Return the operations of a forward pass of the transformer, for one guidance branch.

    They exclude what is computed once per job: embeddings, and keys and values of text and image.

    Args:
        clip: Determines the sequence length.
        is_reused: Whether the attention cache replaces the self-attention.
    """
    config = _config()
    layers, tokens = config["num_layers"], clip.num_tokens
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch_in = config["in_channels"] * 4
    patch_out = config["out_channels"] * 4
    context = _TEXT_TOKENS + (_IMAGE_TOKENS if clip.has_image else 0)
    # Queries, keys, values and output of the self-attention, query and output of the other one.
    projections = (2 if is_reused else 6) * 2 * tokens * width**2
    keys = context if is_reused else tokens + context
    feed_forward = 2 * 2 * tokens * width * config["ffn_dim"]
    return Flops(
        attention=layers * 4 * tokens * keys * width,
        linear=layers * (projections + feed_forward) + 2 * tokens * width * (patch_in + patch_out),
    )


def step_flops(clip: Clip) -> Flops:
    """Return the operations of a denoising step, for all guidance branches."""
    flops = forward_flops(clip)
    return Flops(
        attention=clip.num_branches * flops.attention, linear=clip.num_branches * flops.linear
    )


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Collectives and bytes that a rank sends in one forward pass."""

    num_collectives: int
    num_bytes: float


def forward_traffic(clip: Clip, ulysses_size: int) -> Traffic:
    """Return the traffic of a forward pass: two exchanges per layer, then one gather."""
    if ulysses_size == 1:
        return Traffic(num_collectives=0, num_bytes=0.0)
    config = _config()
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = clip.num_tokens / ulysses_size
    others = (ulysses_size - 1) / ulysses_size
    # Queries, keys and values on the way in, the output on the way out.
    layer = 4 * tokens * width * _BYTES_OF_A_NUMBER * others
    gather = tokens * config["out_channels"] * 4 * _BYTES_OF_A_RESULT * (ulysses_size - 1)
    return Traffic(
        num_collectives=2 * config["num_layers"] + 1,
        num_bytes=config["num_layers"] * layer + gather,
    )


@cache
def _config() -> dict[str, int]:
    config: dict[str, int] = json.loads(_CONFIG.read_text())
    return config
