"""The denoising loop with its whole state in the open: step, latents, the solver's history."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ranks.attention_cache import AttentionCache
from ranks.solver import Solver
from ranks.transformer import ShardTransformer
from ranks.ulysses import Condition, SequenceGroup, Shard


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Which guidance branches this rank computes, and how both become one prediction.

    Args:
        scale: How far the prediction leans from unconditional to conditional.
        conditions: This rank's branches by their number, 0 conditional, 1 unconditional.
        group: The two ranks that compute a branch each; None if this rank computes all there is.
    """

    scale: float
    conditions: dict[int, Condition]
    group: dist.ProcessGroup | None

    def combine(self, predicted: Sequence[Tensor]) -> Tensor:
        """Return the guided prediction from those of this rank's branches.

        Source:
            Classifier-free guidance as in diffusers' `WanImageToVideoPipeline`.
        """
        conditional, *rest = self._exchange(predicted[0]) if self.group else predicted
        if not rest:
            return conditional
        return rest[0] + self.scale * (conditional - rest[0])

    def _exchange(self, own: Tensor) -> list[Tensor]:
        """Return the predictions of both branches, conditional first."""
        both = [torch.empty_like(own), torch.empty_like(own)]
        dist.all_gather(both, own.contiguous(), group=self.group)
        return both


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Predicts the velocity of whole latents, together with the other ranks.

    Args:
        transformer: The model.
        first_frame: Mask and encoded first frame, `[1, C, T, H, W]`, float32, on the device.
        guidance: What this rank computes.
        sequence: The ranks that share the sequence.
        rope: Cosines and sines of the whole sequence.
        cache: Kept attention outputs, None if the job keeps none.
    """

    transformer: ShardTransformer
    first_frame: Tensor
    guidance: Guidance
    sequence: SequenceGroup
    rope: tuple[Tensor, Tensor]
    cache: AttentionCache | None

    def predict(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Return the velocity `[1, C, T, H, W]` as float32 on the CPU, the same on every rank.

        Args:
            step: Denoising step, from 0.
            timestep: Scalar, int64, CPU.
            latents: Whole latents, float32, CPU.
        """
        device = self.first_frame.device
        inputs = torch.cat((latents.to(device), self.first_frame), dim=1)
        inputs = inputs.to(self.transformer.dtype)
        timesteps = timestep.to(device).unsqueeze(0)
        predicted = [
            self.transformer(inputs, timesteps, condition, self._shard(step, branch))
            for branch, condition in self.guidance.conditions.items()
        ]
        guided = self.sequence.gather(self.guidance.combine(predicted))
        frames, height, width = latents.shape[2:]
        whole = self.transformer.unpatchify(guided, (frames, height, width))
        # Here the host waits for all that it has queued; otherwise it would queue the whole loop,
        # and a cancel would come too late. The copies above wait, too, but for an idle device.
        return whole.to("cpu", torch.float32)

    def _shard(self, step: int, branch: int) -> Shard:
        cos, sin = (self.sequence.take(table) for table in self.rope)
        return Shard(
            sequence=self.sequence,
            rope_cos=cos,
            rope_sin=sin,
            branch=branch,
            step=step,
            cache=self.cache,
        )


class Denoiser:
    """A run of the denoising loop between two of its steps.

    Args:
        solver: At its start.
        latents: Noise, float32, CPU.
    """

    def __init__(self, solver: Solver, latents: Tensor) -> None:
        self.solver = solver
        self.latents = latents
        self.step = 0

    @property
    def is_done(self) -> bool:
        """Whether the latents are free of noise."""
        return self.step == self.solver.num_steps

    def advance(self, predictor: Predictor) -> None:
        """Do one step."""
        timestep = self.solver.timestep(self.step)
        velocity = predictor.predict(self.step, timestep, self.latents)
        self.latents = self.solver.advance(self.step, velocity, self.latents)
        self.step += 1

    def state(self) -> dict[str, Tensor]:
        """Return all that is needed to go on in another process.

        The tensors are never written to again, so they may be saved while the loop goes on.
        """
        own = {"step": torch.tensor(self.step), "latents": self.latents}
        return own | {f"solver.{name}": value for name, value in self.solver.history().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where another process left off."""
        self.step = int(state["step"].item())
        self.latents = state["latents"]
        prefix = "solver."
        self.solver.restore(
            {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        )
