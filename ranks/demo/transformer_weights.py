"""The weights of the demo transformer, constructed so that it turns noise into a moving picture.

A token holds the latents and the condition. In the first block, heads attend from every token to
the same position of the first frame and subtract the condition there from the latents. The result
is the error, and the velocity is a multiple of it. In the second block, heads attend to that
position and to its left, depending on the time of the frame, so that the picture sways. All other
weights are random and scaled down, so that prompt, image, noise and step also affect the frames.
"""

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformer3DModel
from torch import nn

from ranks.demo.attention_heads import (
    add_glow,
    add_sway,
    attend_broadly,
    subtract_condition,
)
from ranks.demo.first_frame_marks import mark_first_frame
from ranks.demo.token_channels import (
    CONDITION,
    CONSTANT,
    CONSTANTS,
    ERROR,
    IS_FIRST,
    LATENTS,
    NUM_CHANNELS,
    PIXELS,
    deviation,
    read,
)
from ranks.demo.vae_weights import NUM_COLOURS

_RATE = 4.0
"""Ratio of velocity to error: exp(-4) of the noise remains at the end."""

_RANDOM_IN_SELF_ATTENTION = 0.05
_RANDOM_IN_CROSS_ATTENTION = 0.02
_RANDOM_IN_FEED_FORWARD = 0.2
_RANDOM_IN_TIME = 0.005
_RANDOM_IN_VELOCITY = 0.02
_TINT = 0.07
_IMAGE = 0.05


def construct_transformer(model: WanTransformer3DModel) -> None:
    first, second = (block.attn1 for block in model.blocks)
    with torch.no_grad():
        _scale_down_random(model)
        _embed_patches(model.patch_embedding, model.config.out_channels)
        subtract_condition(first)
        add_glow(first, head=3)
        attend_broadly(first, range(4, first.heads))
        add_sway(second)
        attend_broadly(second, range(5, second.heads))
        text = model.condition_embedder.text_embedder
        for layer in (text.linear_1, text.linear_2):
            layer.bias.zero_()
        for block in model.blocks:
            _attend_to_condition(block.attn2)
        _predict_velocity(model.proj_out)
        if model.config.in_channels == model.config.out_channels:
            mark_first_frame(model)
        if (image := model.condition_embedder.image_embedder) and image.pos_embed is not None:
            image.pos_embed.normal_()


def _scale_down_random(model: WanTransformer3DModel) -> None:
    _scale_down_time(model)
    for block in model.blocks:
        for writer, share in (
            (block.attn1.to_out[0], _RANDOM_IN_SELF_ATTENTION),
            (block.attn2.to_out[0], _RANDOM_IN_CROSS_ATTENTION),
            (block.ffn.net[2], _RANDOM_IN_FEED_FORWARD),
        ):
            writer.weight[:NUM_CHANNELS] *= share
            writer.weight[IS_FIRST:NUM_CHANNELS] = 0.0
            writer.bias[:NUM_CHANNELS] = 0.0
        attn = block.attn1
        for reader in (attn.to_q, attn.to_k, attn.to_v, block.attn2.to_q, block.ffn.net[0].proj):
            reader.weight[:, CONSTANTS] = 0.0


def _scale_down_time(model: WanTransformer3DModel) -> None:
    """Make the step matter little, and open the gates of self-attention and feed-forward."""
    embedder = model.condition_embedder
    last = embedder.time_embedder.linear_2
    for weight in (last.weight, last.bias, embedder.time_proj.bias, model.scale_shift_table):
        weight *= _RANDOM_IN_TIME
    embedder.time_proj.weight *= 4.0
    for block in model.blocks:
        block.scale_shift_table *= 4.0 * _RANDOM_IN_TIME
        block.scale_shift_table[:, [2, 5]] += 1.0


def _embed_patches(conv: nn.Conv3d, num_latents: int) -> None:
    conv.weight[:NUM_CHANNELS] = 0.0
    conv.get_parameter("bias")[:NUM_CHANNELS] = 0.0
    condition = conv.in_channels - num_latents  # 0 where the first frame itself is the condition
    for channel, (latent, row, col) in enumerate(LATENTS):
        conv.weight[ERROR + channel, latent, 0, row, col] = 1.0
    for channel, (latent, row, col) in enumerate(LATENTS[: len(PIXELS)]):
        conv.weight[CONDITION + channel, condition + latent, 0, row, col] = 1.0
    if condition:
        size = deviation(conv.out_channels)
        mask = conv.weight[IS_FIRST, num_latents:condition]
        mask.fill_(2.0 * size / mask.numel())
        conv.get_parameter("bias")[IS_FIRST] = -size
    conv.get_parameter("bias")[CONSTANTS] = torch.tensor([CONSTANT, -CONSTANT])


def _attend_to_condition(attn: WanAttention) -> None:
    """Let the words of the prompt tint the frames, but not the padding after them.

    The embedding of a padding token is zero. So its key is the bias, which points away from the
    query, and its value is zero.
    """
    direction = torch.randn(attn.inner_dim).sign()
    attn.to_q.bias.copy_(direction)
    attn.to_k.bias.copy_(-0.1 * direction)
    attn.to_v.bias.zero_()
    if attn.add_v_proj is not None:
        attn.add_v_proj.weight *= _IMAGE
        attn.add_v_proj.bias *= _IMAGE
    for norm in (attn.norm_q, attn.norm_k):
        norm.weight.fill_(1.2)
    tint = _TINT * torch.randn(NUM_COLOURS, attn.inner_dim)
    pixels = slice(ERROR, ERROR + len(PIXELS))
    attn.to_out[0].weight[pixels] += tint.repeat_interleave(len(PIXELS) // NUM_COLOURS, dim=0)


def _predict_velocity(linear: nn.Linear) -> None:
    linear.weight *= _RANDOM_IN_VELOCITY
    linear.weight[:, CONSTANTS] = 0.0
    linear.bias.zero_()
    factor = _RATE * deviation(linear.in_features)
    num_latents = linear.out_features // 4
    for channel, (latent, row, col) in enumerate(LATENTS):
        read(linear, num_latents * (2 * row + col) + latent, ERROR + channel, factor)
