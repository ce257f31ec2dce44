"""`WanTransformer3DModel`, run on one rank's shard of the tokens.

Shapes: B batch (always 1), C channels of latents, S tokens of the whole sequence, L tokens of this
rank, P channels of a patch, M channels of the model, R timesteps.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from ranks.model.block import Branch, Stream, finish, install_forward
from ranks.model.kernels import KernelForm, Kernels
from ranks.model.token_rows import by_token
from ranks.parallel.ulysses import Attend, Condition, install_attention
from ranks.sampling.residual_cache import Residuals
from ranks.sampling.step_parts import StepParts

_ROWS_AT_ONCE = 8192

LatentShape = tuple[int, int, int]
"""Frames, height and width of latents, `(T, H, W)`."""


class ShardTransformer(nn.Module):
    """The transformer with a forward pass that computes only this rank's tokens.

    Blocks are called as modules, so hooks on them still work.

    Args:
        model: The whole model; forward pass and attention of its blocks are replaced.
        backend: Kernel of the local attention.
        kernels: Form of the element-wise parts of the blocks.
        attend_across: Computes cross-attention; None for the same kernel.
    """

    def __init__(
        self,
        model: WanTransformer3DModel,
        backend: AttentionBackendName,
        *,
        kernels: KernelForm = "plain",
        attend_across: Attend | None = None,
    ) -> None:
        super().__init__()
        functions = Kernels(kernels)
        install_forward(model, functions)
        install_attention(model, backend, functions, attend_across)
        self._kernels = functions
        self.model = model

    @property
    def dtype(self) -> torch.dtype:
        # The tokens' dtype; some modules compute in float32.
        dtype: torch.dtype = self.model.patch_embedding.weight.dtype
        return dtype

    @property
    def num_heads(self) -> int:
        return int(self.model.config.num_attention_heads)

    @property
    def num_blocks(self) -> int:
        return len(self.model.blocks)

    def num_tokens(self, shape: LatentShape) -> int:
        return math.prod(shape) // int(math.prod(self.model.config.patch_size))

    def condition(self, prompt_embeds: Tensor, image_embeds: Tensor | None) -> Condition:
        """Project prompt and image embeddings to the width of the model.

        Called once per job, because the result does not depend on the step.

        Args:
            prompt_embeds: `[B, N, C]`.
            image_embeds: `[images, N, C]`; None if the model sees no embedded image.
        """
        embedder = self.model.condition_embedder
        text = embedder.text_embedder(prompt_embeds.to(self.dtype))
        if image_embeds is None:
            return Condition(text, None)
        return Condition(text, embedder.image_embedder(image_embeds.to(self.dtype)))

    def rope_tables(self, shape: LatentShape, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the whole sequence, each `[1, S, 1, D / 2]`, float32.

        D is the number of channels of a head. There is one angle for each pair of channels; the
        model's own tables hold each angle twice.
        """
        # The tables depend on nothing but the shape of the latents.
        cos, sin = self.model.rope(torch.empty(1, 1, *shape, device="meta"))
        return cos[..., 0::2].contiguous().to(device), sin[..., 1::2].contiguous().to(device)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        branches: Sequence[Branch],
        parts: StepParts | None = None,
        residuals: Residuals | None = None,
    ) -> list[Tensor]:
        """Predict the velocity of this rank's tokens for each of its guidance branches.

        All branches pass a block before any passes the next: a block whose weights are gathered
        from other ranks, or copied from the host, is fetched once a step.

        Args:
            latents: Whole input, `[B, C, T, H, W]`, in `dtype`.
            timesteps: `[R]`; `Shard.timestep_rows` says which of them a token has.
            branches: Prompt and image of each branch, and this rank's tokens with the group that
                exchanges tokens.
            parts: Boundaries between the blocks; None if the pass has none.
            residuals: Kept residuals of the run; None if no step cache keeps any.

        Returns:
            Patches `[B, L, P]` of this rank's tokens, in the order of the sequence, of each branch,
            in float32.

        Source:
            diffusers' `WanTransformer3DModel.forward`; dtypes of Wan2.1 `wan/modules/model.py`.
        """
        _, first = branches[0]  # the shards of all branches are of the same tokens
        embedded = self._embed_patches(first.sequence.take(self._patches(latents))).float()
        time, modulation = self._embed_time(timesteps)
        streams = [Stream(embedded)] * len(branches)
        blocks = partial(self._pass_blocks, streams, branches, modulation, parts)
        if residuals is None:
            del embedded  # which frees it after the first block
            hidden = blocks()
        else:
            hidden = residuals.pass_blocks(embedded, blocks)
        return [self._head(tokens, time, first.timestep_rows) for tokens in hidden]

    def _pass_blocks(
        self,
        streams: list[Stream],
        branches: Sequence[Branch],
        modulation: Tensor,
        parts: StepParts | None,
    ) -> list[Tensor]:
        for block in self.model.blocks:
            if parts is not None and not parts.goes_on():
                break  # the run ends, and the result is not used
            streams = block(streams, branches, modulation)
        rows = branches[0][1].timestep_rows
        return [finish(stream, self._kernels, rows) for stream in streams]

    def _head(self, hidden_BLM: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        shift, scale = (self.model.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        normed = self.model.norm_out(hidden_BLM)
        normed = normed * (1 + by_token(scale, rows)) + by_token(shift, rows)
        return _in_float32(self.model.proj_out, normed)

    def modulation(self, timestep: Tensor) -> Tensor:
        """Return the blocks' modulation `[1, 6 * M]` at a timestep, a scalar."""
        return self._embed_time(timestep.unsqueeze(0))[1].flatten(1)

    def unpatchify(self, patches: Tensor, shape: LatentShape) -> Tensor:
        """Turn a whole sequence of patches `[B, S, P]` into latents `[B, C, T, H, W]`."""
        sides = self.model.config.patch_size
        grid = [length // side for length, side in zip(shape, sides, strict=True)]
        patches = patches.reshape(len(patches), *grid, *sides, -1)
        # B t h w p_t p_h p_w C -> B C t p_t h p_h w p_w
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(patches), -1, *shape)

    def _patches(self, latents: Tensor) -> Tensor:
        """Cut whole latents into patches `[B, S, P]`, channels first within a patch."""
        batch, channels, *shape = latents.shape
        sides = self.model.config.patch_size
        patches = latents.reshape(
            batch,
            channels,
            *(part for n, side in zip(shape, sides, strict=True) for part in (n // side, side)),
        )
        # B C t p_t h p_h w p_w -> B t h w C p_t p_h p_w
        return patches.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(
            batch, -1, channels * math.prod(sides)
        )

    def _embed_patches(self, patches_BLP: Tensor) -> Tensor:
        """Apply the patch convolution to a shard; its windows do not overlap, so it is linear."""
        convolution = self.model.patch_embedding
        return F.linear(patches_BLP.to(self.dtype), convolution.weight.flatten(1), convolution.bias)

    def _embed_time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time embedding `[R, M]` and the blocks' modulation `[R, 6, M]`, float32."""
        embedder = self.model.condition_embedder
        waves = embedder.timesteps_proj(timesteps)
        time = embedder.time_embedder(waves.to(_parameter_dtype(embedder.time_embedder))).float()
        modulation = _in_float32(embedder.time_proj, embedder.act_fn(time))
        return time, modulation.unflatten(1, (6, -1))


def _in_float32(linear: nn.Linear, values: Tensor) -> Tensor:
    """Apply a layer in float32 to float32 values, whatever the dtype of its weights."""
    if linear.weight.dtype == torch.float32:
        return F.linear(values, linear.weight, linear.bias)
    # In parts: a float32 copy of all weights of the time projection would take 0.6 GB of 14B.
    parts = [F.linear(values, rows.float()) for rows in linear.weight.split(_ROWS_AT_ONCE)]
    return torch.cat(parts, dim=-1) + linear.bias.float()


def _parameter_dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
