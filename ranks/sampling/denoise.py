"""The denoising loop, with its whole state explicit: step, latents, history of the solver."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ranks.families.family import ModelFamily
from ranks.model.transformer import ShardTransformer
from ranks.parallel.ulysses import Condition, SequenceGroup, Shard
from ranks.sampling.attention_cache import AttentionCache
from ranks.sampling.residual_cache import Residuals
from ranks.sampling.solver import Solver
from ranks.sampling.step_cache import StepCache
from ranks.sampling.step_parts import StepParts


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The guidance branches that this rank computes, and how both become one prediction.

    Args:
        guidance_scale: Weight of the conditional over the unconditional prediction.
        conditions: This rank's branches by number: 0 conditional, 1 unconditional.
        group: The two ranks that compute one branch each; None if this rank computes all branches.
    """

    guidance_scale: float
    conditions: dict[int, Condition]
    group: dist.ProcessGroup | None

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """Return the guided prediction `[B, L, P]`, given one per branch of this rank.

        Source:
            Classifier-free guidance in diffusers' `WanImageToVideoPipeline.__call__`.
        """
        conditional, *rest = self._exchange(predictions[0]) if self.group else predictions
        if not rest:
            return conditional
        unconditional = rest[0]
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _exchange(self, own: Tensor) -> list[Tensor]:
        both = [torch.empty_like(own), torch.empty_like(own)]
        dist.all_gather(both, own.contiguous(), group=self.group)
        return both


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Predicts the velocity of whole latents, together with the other ranks.

    Args:
        family: Makes the transformer's input.
        transformer: The model.
        condition: What `family` adds to the latents in every step, float32, on the device.
        guidance: The branches of this rank.
        sequence: The ranks that share the sequence.
        rope: Cosines and sines of the whole sequence, each `[1, S, 1, D / 2]`, float32.
        timestep_rows: Which of the family's timesteps each token of the whole sequence has, `[S]`,
            on the device; None if there is only one.
        cache: Kept attention outputs; None if the job uses no cache.
        residuals: Kept residuals of the blocks; None if no step cache keeps any.
        parts: Divides the steps; None if they are whole.
    """

    family: ModelFamily
    transformer: ShardTransformer
    condition: Tensor
    guidance: Guidance
    sequence: SequenceGroup
    rope: tuple[Tensor, Tensor]
    timestep_rows: Tensor | None
    cache: AttentionCache | None
    residuals: Residuals | None = None
    parts: StepParts | None = None

    def predict(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Return the velocity `[1, C, T, H, W]`, float32, the same on every rank.

        Args:
            step: Denoising step, from 0.
            timestep: Scalar, int64, CPU.
            latents: Whole latents `[1, C, T, H, W]`, float32.

        Raises:
            RunInterrupted: On every rank alike, if the run ends between two blocks.
        """
        device = self.condition.device
        if self.parts is not None:
            self.parts.begin_step(self.transformer.num_blocks)
        inputs = self.family.model_input(latents, self.condition)
        inputs = inputs.to(self.transformer.dtype)
        timesteps = self.family.timesteps(timestep.to(device))
        branches = [
            (condition, self._shard(step, branch))
            for branch, condition in self.guidance.conditions.items()
        ]
        predictions = self.transformer(inputs, timesteps, branches, self.parts, self.residuals)
        if self.parts is not None:
            self.parts.end_step()
        guided = self.sequence.gather(self.guidance.combine(predictions))
        frames, height, width = latents.shape[2:]
        return self.transformer.unpatchify(guided, (frames, height, width))

    def _shard(self, step: int, branch: int) -> Shard:
        cos, sin = (self.sequence.take(table) for table in self.rope)
        rows = self.timestep_rows
        return Shard(
            sequence=self.sequence,
            rope_cos=cos,
            rope_sin=sin,
            branch=branch,
            step=step,
            cache=self.cache,
            timestep_rows=None if rows is None else self.sequence.take(rows.unsqueeze(0))[0],
        )


class Denoiser:
    """The state of the denoising loop between two steps.

    Args:
        solver: A new solver.
        latents: Noise `[1, C, T, H, W]`, float32, on this rank's device.
        step_cache: A new step cache; None if the job uses none.
    """

    def __init__(
        self, solver: Solver, latents: Tensor, step_cache: StepCache | None = None
    ) -> None:
        self.solver = solver
        self.step_cache = step_cache
        self.latents = latents
        self.step = 0

    @property
    def is_done(self) -> bool:
        return self.step == self.solver.num_inference_steps

    @property
    def timestep(self) -> Tensor:
        return self.solver.timestep(self.step)

    def advance(self, predictor: Predictor) -> None:
        def predict() -> Tensor:
            return predictor.predict(self.step, self.timestep, self.latents)

        cache = self.step_cache
        velocity = predict() if cache is None else cache.velocity(self.step, self.latents, predict)
        self.latents = self.solver.advance(self.step, velocity, self.latents)
        self.step += 1

    @property
    def skipped_steps(self) -> Sequence[int]:
        return () if self.step_cache is None else self.step_cache.skipped_steps

    @property
    def is_skipping(self) -> bool:
        """Whether the next step is skipped."""
        return self.step_cache is not None and self.step_cache.is_skipping

    def wants_to_skip(self) -> bool:
        """Return whether this rank would skip the next step; called once after each step."""
        cache = self.step_cache
        return cache is not None and cache.wants_to_skip(self.step, self.latents)

    def skip_next(self, is_skipping: bool) -> None:
        if self.step_cache is not None:
            self.step_cache.is_skipping = is_skipping

    def state(self) -> dict[str, Tensor]:
        """Return all that another process needs to resume the loop.

        The tensors are never written to again, so they may be saved while the loop continues.
        """
        own = {"step": torch.tensor(self.step), "latents": self.latents}
        kept = {} if self.step_cache is None else self.step_cache.state()
        return own | _named("solver.", self.solver.history()) | _named("step_cache.", kept)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from the `state` of another denoiser, bit for bit."""
        self.step = int(state["step"].item())
        state = {name: value.to(self.latents.device) for name, value in state.items()}
        self.latents = state["latents"]
        self.solver.restore(_own("solver.", state))
        if self.step_cache is not None:
            self.step_cache.restore(_own("step_cache.", state))


def _named(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def _own(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
