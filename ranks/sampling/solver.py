"""The two samplers of Wan2.1, on their official schedules, with their history in the open.

They step on the CPU in float32: the latents are small, an operator of one of them is missing on
NPUs, and so every device steps alike.
"""

from typing import Literal

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

SolverName = Literal["unipc", "dpm++"]

NUM_TRAIN_TIMESTEPS = 1000
# The largest noise level of the training schedule, 1 - 1/1000 as float32 holds it.
_MAX_SIGMA = 0.9990000128746033

_COUNTERS = ("lower_order_nums", "this_order", "_step_index")


def make_scheduler(
    name: SolverName, num_steps: int, shift: float
) -> UniPCMultistepScheduler | DPMSolverMultistepScheduler:
    """Return a scheduler of diffusers on Wan2.1's own schedule, which is not diffusers' default.

    Args:
        name: Which sampler.
        num_steps: Number of denoising steps.
        shift: How far the schedule leans towards high noise.

    Source:
        Wan2.1 `wan/utils/fm_solvers_unipc.py` and `fm_solvers.py`.
    """
    if name == "unipc":
        return _unipc(num_steps, shift)
    return _dpm_plus_plus(num_steps, shift)


class Solver:
    """A sampler in the middle of a run.

    Args:
        name: Which sampler.
        num_steps: Number of denoising steps.
        shift: Shift of the noise schedule.
    """

    def __init__(self, name: SolverName, num_steps: int, shift: float) -> None:
        self._scheduler = make_scheduler(name, num_steps, shift)

    @property
    def num_steps(self) -> int:
        """Number of denoising steps."""
        return len(self._scheduler.timesteps)

    def timestep(self, step: int) -> Tensor:
        """Return the timestep that the model is given at a step, a scalar, int64."""
        timestep: Tensor = self._scheduler.timesteps[step]
        return timestep

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """Return the latents after a step.

        Args:
            step: From 0.
            velocity: What the model predicts for `latents`, float32, CPU.
            latents: Before the step, float32, CPU.
        """
        timestep = self.timestep(step)
        advanced: Tensor = self._scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return advanced

    def estimate(self) -> Tensor:
        """Return what the latest step takes the latents without noise to be."""
        estimate: Tensor = self._scheduler.model_outputs[-1]
        return estimate

    def history(self) -> dict[str, Tensor]:
        """Return all that later steps need of earlier ones."""
        scheduler = self._scheduler
        history = {
            f"output_{age}": output
            for age, output in enumerate(scheduler.model_outputs)
            if output is not None
        }
        if getattr(scheduler, "last_sample", None) is not None:
            history["last_sample"] = scheduler.last_sample
        for name in _COUNTERS:
            if getattr(scheduler, name, None) is not None:
                history[name] = torch.tensor(getattr(scheduler, name))
        return history

    def restore(self, history: dict[str, Tensor]) -> None:
        """Go on where another solver of the same kind left off, to the same bits."""
        scheduler = self._scheduler
        for age in range(len(scheduler.model_outputs)):
            scheduler.model_outputs[age] = history.get(f"output_{age}")
        if "last_sample" in history:
            scheduler.last_sample = history["last_sample"]
        for name in _COUNTERS:
            if name in history:
                setattr(scheduler, name, int(history[name].item()))


def _unipc(num_steps: int, shift: float) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    # Unshifted: the scheduler shifts what it is given.
    scheduler.set_timesteps(sigmas=np.linspace(_MAX_SIGMA, 0.0, num_steps + 1)[:-1])
    return scheduler


def _dpm_plus_plus(num_steps: int, shift: float) -> DPMSolverMultistepScheduler:
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    scheduler.set_timesteps(num_steps)
    # This scheduler takes no sigmas of ours together with a flow schedule: they are replaced.
    sigmas = np.linspace(1, 0, num_steps + 1)[:num_steps]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
    scheduler.timesteps = torch.from_numpy((sigmas * NUM_TRAIN_TIMESTEPS).astype(np.int64))
    return scheduler
