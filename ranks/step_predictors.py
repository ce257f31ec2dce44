"""The predictor of each denoising step: a model may have two transformers, one after the other."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.engine import Engine
from ranks.parallel.layout import Layout, split_evenly
from ranks.parallel.process_group import LayoutGroups
from ranks.parallel.ulysses import SequenceGroup
from ranks.sampling.attention_cache import AttentionCache
from ranks.sampling.denoise import Guidance, Predictor
from ranks.sampling.step_parts import StepParts


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the transformers get besides the latents.

    Args:
        prompt_embeds: One `[1, 512, C]` for each guidance branch: conditional, unconditional.
        image_embeds: `[images, N, C]`; None if the model sees no embedded image.
        frames: The family's condition, float32, on the device.
    """

    prompt_embeds: list[Tensor]
    image_embeds: Tensor | None
    frames: Tensor


class StepPredictors:
    """Makes the predictors of one run.

    Args:
        engine: Loaded models of this rank.
        spec: The job.
        layout: Layout of the job.
        conditioning: Inputs of the transformers.
        latent_shape: `(1, C, T, H, W)`.
        cache: Kept attention outputs; None if the job uses no cache.
        parts: Divides the steps.
    """

    def __init__(
        self,
        engine: Engine,
        spec: JobSpec,
        layout: Layout,
        conditioning: Conditioning,
        latent_shape: tuple[int, int, int, int, int],
        cache: AttentionCache | None,
        parts: StepParts,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._layout = layout
        self._groups: LayoutGroups = engine.world.groups(layout)
        self._conditioning = conditioning
        self._latent_shape = latent_shape
        self._cache = cache
        self._parts = parts
        self._expert: int | None = None
        self._predictor: Predictor | None = None

    def at(self, timestep: Tensor) -> Predictor:
        """Return the predictor of a step, given its timestep, a scalar."""
        expert = self._engine.family.expert(timestep)
        if self._predictor is None or expert != self._expert:
            # First free the keys and values that the other transformer has computed.
            self._predictor = None
            self._predictor = self._make(expert)
            self._expert = expert
        return self._predictor

    def _make(self, expert: int) -> Predictor:
        family = self._engine.family
        transformer = self._engine.use_transformer(expert, self._spec)
        device = self._conditioning.frames.device
        _, _, num_frames, height, width = self._latent_shape
        shape = (num_frames, height, width)
        num_tokens = transformer.num_tokens(shape)
        sizes = split_evenly(num_tokens, self._layout.ulysses_size)
        shard = self._layout.shard(self._engine.world.rank)
        rows = family.timestep_rows(num_frames, num_tokens)
        return Predictor(
            family=family,
            transformer=transformer,
            condition=self._conditioning.frames,
            guidance=self._guidance(expert),
            sequence=SequenceGroup(self._groups.ulysses, sizes, shard),
            rope=transformer.rope_tables(shape, device),
            timestep_rows=None if rows is None else rows.to(device),
            cache=self._cache,
            parts=self._parts,
        )

    def _guidance(self, expert: int) -> Guidance:
        scale = self._engine.family.guidance_scale(self._spec, expert)
        is_guided = scale > 1.0
        transformer = self._engine.models.transformers[expert]
        embeds = self._conditioning
        group: dist.ProcessGroup | None = self._groups.cfg if is_guided else None
        return Guidance(
            guidance_scale=scale,
            conditions={
                branch: transformer.condition(embeds.prompt_embeds[branch], embeds.image_embeds)
                for branch in self._branches(is_guided)
            },
            group=group,
        )

    def _branches(self, is_guided: bool) -> list[int]:
        """Return the branches that this rank computes: 0 conditional, 1 unconditional."""
        if not is_guided:
            return [0]  # in any layout: there is no other branch
        layout = self._layout
        return [0, 1] if layout.cfg_size == 1 else [layout.branch(self._engine.world.rank)]
