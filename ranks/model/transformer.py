"""`WanTransformer3DModel`, run on one rank's shard of the tokens.

Shapes: B batch (always 1), C channels of latents, S tokens of the whole sequence, L tokens of this
rank, P channels of a patch, M channels of the model.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from ranks.model.block import install_forward
from ranks.model.kernels import KernelForm, Kernels
from ranks.parallel.ulysses import Condition, SequenceGroup, Shard, install_attention

LatentShape = tuple[int, int, int]
"""Frames, height and width of latents, `(T, H, W)`."""

_WARM_UP_SHAPES: tuple[LatentShape, ...] = ((1, 32, 32), (1, 32, 48))
"""Two different numbers of tokens: the second shows the compiler that the number varies."""


class ShardTransformer(nn.Module):
    """The transformer with a forward pass that computes only this rank's tokens.

    Blocks are called as modules, so hooks on them still work.

    Args:
        model: The whole model; forward pass and attention of its blocks are replaced.
        backend: Kernel of the local attention.
        kernels: Form of the element-wise parts of the blocks.
    """

    def __init__(
        self,
        model: WanTransformer3DModel,
        backend: AttentionBackendName,
        *,
        kernels: KernelForm = "plain",
    ) -> None:
        super().__init__()
        functions = Kernels(kernels)
        install_forward(model, functions)
        install_attention(model, backend, functions)
        self.model = model

    @property
    def dtype(self) -> torch.dtype:
        # The tokens' dtype; some modules compute in float32.
        dtype: torch.dtype = self.model.patch_embedding.weight.dtype
        return dtype

    @property
    def num_heads(self) -> int:
        return int(self.model.config.num_attention_heads)

    def num_tokens(self, shape: LatentShape) -> int:
        return math.prod(shape) // int(math.prod(self.model.config.patch_size))

    def condition(self, prompt_embeds: Tensor, image_embeds: Tensor) -> Condition:
        """Project prompt and image embeddings, each `[B, N, C]`, to the width of the model.

        Called once per job, because the result does not depend on the step.
        """
        embedder = self.model.condition_embedder
        return Condition(
            embedder.text_embedder(prompt_embeds.to(self.dtype)),
            embedder.image_embedder(image_embeds.to(self.dtype)),
        )

    def rope_tables(self, shape: LatentShape, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the whole sequence, each `[1, S, 1, D / 2]`, float32.

        D is the number of channels of a head. There is one angle for each pair of channels; the
        model's own tables hold each angle twice.
        """
        # The tables depend on nothing but the shape of the latents.
        cos, sin = self.model.rope(torch.empty(1, 1, *shape, device="meta"))
        return cos[..., 0::2].contiguous().to(device), sin[..., 1::2].contiguous().to(device)

    def warm_up(self, device: torch.device, num_text_tokens: int, num_image_tokens: int) -> None:
        """Run small clips, to compile the kernels and to find faults before the first job.

        With sharded weights, every rank must take part.

        Args:
            device: Device of this rank.
            num_text_tokens: Text tokens, as in every job: some attention kernels refuse other
                numbers of keys.
            num_image_tokens: Image tokens, as in every job.
        """
        config = self.model.config
        condition = self.condition(
            torch.zeros(1, num_text_tokens, config.text_dim, device=device),
            torch.zeros(1, num_image_tokens, config.image_dim, device=device),
        )
        for shape in _WARM_UP_SHAPES:
            cos, sin = self.rope_tables(shape, device)
            shard = Shard(
                sequence=SequenceGroup(None, [self.num_tokens(shape)], 0),
                rope_cos=cos,
                rope_sin=sin,
                branch=0,
                step=0,
                cache=None,
            )
            latents = torch.zeros(1, config.in_channels, *shape, dtype=self.dtype, device=device)
            self(latents, torch.zeros(1, dtype=torch.int64, device=device), condition, shard)

    def forward(
        self, latents: Tensor, timestep: Tensor, condition: Condition, shard: Shard
    ) -> Tensor:
        """Predict the velocity of this rank's tokens.

        Args:
            latents: Whole latents with mask and first frame, `[B, C, T, H, W]`, in `dtype`.
            timestep: `[B]`, int64.
            condition: Prompt and image of the guidance branch.
            shard: This rank's tokens, and the group that exchanges tokens.

        Returns:
            Patches `[B, L, P]` of this rank's tokens, in the order of the sequence.

        Source:
            diffusers' `WanTransformer3DModel.forward`.
        """
        hidden = self._embed_patches(shard.sequence.take(self._patches(latents)))
        time, modulation = self._embed_time(timestep)
        for block in self.model.blocks:
            hidden = block(hidden, condition, modulation, shard)
        shift, scale = (self.model.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        normed = self.model.norm_out(hidden.float()) * (1 + scale) + shift
        patches: Tensor = self.model.proj_out(normed.type_as(hidden))
        return patches

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

    def _embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time embedding `[B, M]` and the blocks' modulation `[B, 6, M]`."""
        embedder = self.model.condition_embedder
        waves = embedder.timesteps_proj(timestep)
        time = embedder.time_embedder(waves.to(_parameter_dtype(embedder.time_embedder)))
        time = time.to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))
        return time, modulation


def _parameter_dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
