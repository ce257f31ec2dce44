"""The predictor of each denoising step: transformer, guidance and layout may change on the way."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.engine import Engine, JobLayouts
from ranks.parallel.layout import Layout, split_evenly
from ranks.parallel.ulysses import SequenceGroup
from ranks.sampling.attention_cache import AttentionCache
from ranks.sampling.denoise import Guidance, Predictor
from ranks.sampling.phases import Phases
from ranks.sampling.residual_cache import Residuals
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
        layouts: Layouts of the job.
        phases: Phases of the run.
        conditioning: Inputs of the transformers.
        latent_shape: `(1, C, T, H, W)`.
        cache: Kept attention outputs; None if the job uses no cache.
        residuals: Kept residuals of the blocks; None if no step cache keeps any.
        parts: Divides the steps.
    """

    def __init__(
        self,
        engine: Engine,
        spec: JobSpec,
        layouts: JobLayouts,
        phases: Phases,
        conditioning: Conditioning,
        latent_shape: tuple[int, int, int, int, int],
        cache: AttentionCache | None,
        residuals: Residuals | None,
        parts: StepParts,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._layouts = layouts
        self._phases = phases
        self._conditioning = conditioning
        self._latent_shape = latent_shape
        self._cache = cache
        self._residuals = residuals
        self._phase: tuple[int, bool] | None = None
        self._parts = parts
        self._predictor: Predictor | None = None

    def at(self, step: int, timestep: Tensor) -> Predictor:
        """Return the predictor of a step, given its timestep, a scalar."""
        phase = self._engine.family.expert(timestep), self._phases.is_guided(step)
        if self._predictor is None or phase != self._phase:
            # First free the keys and values that were computed for the phase before.
            self._predictor = None
            self._predictor = self._make(*phase)
            self._phase = phase
        return self._predictor

    def _make(self, expert: int, is_guided: bool) -> Predictor:
        layout = self._layouts.of(is_guided)
        groups = self._engine.world.groups(layout)
        family = self._engine.family
        transformer = self._engine.use_transformer(expert, self._spec)
        device = self._conditioning.frames.device
        _, _, num_frames, height, width = self._latent_shape
        shape = (num_frames, height, width)
        num_tokens = transformer.num_tokens(shape)
        sizes = split_evenly(num_tokens, layout.ulysses_size)
        shard = layout.shard(self._engine.world.rank)
        rows = family.timestep_rows(num_frames, num_tokens)
        return Predictor(
            family=family,
            transformer=transformer,
            condition=self._conditioning.frames,
            guidance=self._guidance(expert, is_guided, layout),
            sequence=SequenceGroup(groups.ulysses, sizes, shard),
            rope=transformer.rope_tables(shape, device),
            timestep_rows=None if rows is None else rows.to(device),
            cache=self._cache,
            residuals=self._residuals,
            parts=self._parts,
        )

    def _guidance(self, expert: int, is_guided: bool, layout: Layout) -> Guidance:
        scale = self._engine.family.guidance_scale(self._spec, expert) if is_guided else 1.0
        is_guided = scale > 1.0
        transformer = self._engine.models.transformers[expert]
        embeds = self._conditioning
        group: dist.ProcessGroup | None = None
        if is_guided:
            group = self._engine.world.groups(layout).cfg
        return Guidance(
            guidance_scale=scale,
            conditions={
                branch: transformer.condition(embeds.prompt_embeds[branch], embeds.image_embeds)
                for branch in self._branches(is_guided, layout)
            },
            group=group,
        )

    def _branches(self, is_guided: bool, layout: Layout) -> list[int]:
        """Return the branches that this rank computes: 0 conditional, 1 unconditional."""
        if not is_guided:
            return [0]  # in any layout: there is no other branch
        return [0, 1] if layout.cfg_size == 1 else [layout.branch(self._engine.world.rank)]
