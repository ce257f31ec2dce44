"""The two samplers of Wan2.1 on their official schedules, with their history explicit.

They run on the CPU in float32: the latents are small, NPUs lack an operator of one of them, and
every device then computes the same steps.
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
# Below this, all sigmas but the first vanish beside 1 in float32, so the results no longer differ;
# but the schedule's own formulas would divide by zero.
_MIN_SHIFT = 1e-9

_COUNTERS = ("lower_order_nums", "this_order", "_step_index")


def make_scheduler(
    name: SolverName, num_inference_steps: int, shift: float
) -> UniPCMultistepScheduler | DPMSolverMultistepScheduler:
    """Return a diffusers scheduler with Wan2.1's own schedule, which is not diffusers' default.

    Args:
        name: The sampler.
        num_inference_steps: Number of denoising steps.
        shift: Shift of the noise schedule, above 0; above 1, more steps are spent at high noise.

    Source:
        Wan2.1 `wan/utils/fm_solvers_unipc.py` and `fm_solvers.py`.
    """
    make = _unipc if name == "unipc" else _dpm_plus_plus
    scheduler = make(num_inference_steps, max(shift, _MIN_SHIFT))
    # A large or tiny shift makes the first timesteps equal as integers. A scheduler that looks its
    # first step up by timestep would then begin at the second.
    scheduler.set_begin_index(0)
    return scheduler


class Solver:
    """A sampler whose history can be saved and restored.

    Args:
        name: The sampler.
        num_inference_steps: Number of denoising steps.
        shift: Shift of the noise schedule.
    """

    def __init__(self, name: SolverName, num_inference_steps: int, shift: float) -> None:
        self._scheduler = make_scheduler(name, num_inference_steps, shift)

    @property
    def num_inference_steps(self) -> int:
        return len(self._scheduler.timesteps)

    def timestep(self, step: int) -> Tensor:
        """Return the model's timestep at a step: a scalar, int64."""
        timestep: Tensor = self._scheduler.timesteps[step]
        return timestep

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """Return the latents after a step, `[1, C, T, H, W]`, float32, CPU.

        Args:
            step: Denoising step, from 0.
            velocity: The model's prediction for `latents`, same shape, float32, CPU.
            latents: Latents before the step, float32, CPU.
        """
        timestep = self.timestep(step)
        advanced: Tensor = self._scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return advanced

    def estimate(self) -> Tensor:
        """Return the clean latents `[1, C, T, H, W]` predicted at the latest step."""
        estimate: Tensor = self._scheduler.model_outputs[-1]
        return estimate

    def history(self) -> dict[str, Tensor]:
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
        """Continue from the `history` of another solver with the same parameters, bit for bit."""
        scheduler = self._scheduler
        for age in range(len(scheduler.model_outputs)):
            scheduler.model_outputs[age] = history.get(f"output_{age}")
        if "last_sample" in history:
            scheduler.last_sample = history["last_sample"]
        for name in _COUNTERS:
            if name in history:
                setattr(scheduler, name, int(history[name].item()))


def _unipc(num_inference_steps: int, shift: float) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    # Unshifted sigmas: the scheduler applies the shift.
    scheduler.set_timesteps(sigmas=np.linspace(_MAX_SIGMA, 0.0, num_inference_steps + 1)[:-1])
    return scheduler


def _dpm_plus_plus(num_inference_steps: int, shift: float) -> DPMSolverMultistepScheduler:
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    scheduler.set_timesteps(num_inference_steps)
    # With flow sigmas this scheduler accepts no custom ones, so replace them afterwards.
    sigmas = np.linspace(1, 0, num_inference_steps + 1)[:num_inference_steps]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
    scheduler.timesteps = torch.from_numpy((sigmas * NUM_TRAIN_TIMESTEPS).astype(np.int64))
    return scheduler
