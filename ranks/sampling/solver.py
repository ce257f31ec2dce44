"""The samplers, with their history explicit: UniPC and DPM++ of Wan2.1, and Euler.

They run in float32 on the device of the latents, which are small: also on the CPU of an accelerator
that lacks their operators.
"""

from typing import Protocol, assert_never

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor

from broker.wire.job import Solver as SolverName

NUM_TRAIN_TIMESTEPS = 1000
# The largest noise level of the training schedule, 1 - 1/1000 as float32 holds it.
_MAX_SIGMA = 0.9990000128746033
# Below this, all sigmas but the first vanish beside 1 in float32, so the results no longer differ;
# but the schedule's own formulas would divide by zero.
_MIN_SHIFT = 1e-9

_COUNTERS = ("lower_order_nums", "this_order", "_step_index")


class Solver(Protocol):
    """A sampler whose history can be saved and restored.

    Latents are `[1, C, T, H, W]`, float32, on one device; timesteps are on the CPU.
    """

    @property
    def num_inference_steps(self) -> int: ...

    def timestep(self, step: int) -> Tensor:
        """Return the model's timestep at a step: a scalar, int64 or float32."""

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """Return the latents after a step.

        Args:
            step: Denoising step, from 0.
            velocity: The model's prediction for `latents`, of the same shape.
            latents: Latents before the step.
        """

    def estimate(self) -> Tensor:
        """Return the clean latents predicted at the latest step."""

    def history(self) -> dict[str, Tensor]: ...

    def restore(self, history: dict[str, Tensor]) -> None:
        """Continue from the `history` of another solver with the same parameters, bit for bit."""


def make_solver(name: SolverName, num_inference_steps: int, shift: float) -> Solver:
    """Return a new solver.

    Args:
        name: The sampler.
        num_inference_steps: Number of denoising steps.
        shift: Shift of the noise schedule, above 0; above 1, more steps are spent at high noise.
    """
    match name:
        case "unipc":
            return MultistepSolver(unipc_scheduler(num_inference_steps, shift))
        case "dpm++":
            return MultistepSolver(dpm_plus_plus_scheduler(num_inference_steps, shift))
        case "euler":
            return EulerSolver(num_inference_steps, shift)
        case _:
            assert_never(name)


class EulerSolver:
    """Straight steps along the velocity, with the timesteps as they are, not rounded.

    Distilled models are trained for these sigmas.

    Source:
        LightX2V `schedulers/wan/step_distill/scheduler.py`; Wan2.2-Lightning
        `wan/utils/fm_solvers_euler.py`.
    """

    def __init__(self, num_inference_steps: int, shift: float) -> None:
        sigmas = _shifted(np.linspace(1, 0, num_inference_steps + 1), shift)
        self._sigmas = torch.from_numpy(sigmas.astype(np.float32))
        self._estimate: Tensor | None = None

    @property
    def num_inference_steps(self) -> int:
        return len(self._sigmas) - 1

    def timestep(self, step: int) -> Tensor:
        return self._sigmas[step] * NUM_TRAIN_TIMESTEPS

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        sigma, following = self._sigmas[step], self._sigmas[step + 1]
        self._estimate = latents - sigma * velocity
        return latents + (following - sigma) * velocity

    def estimate(self) -> Tensor:
        assert self._estimate is not None, "no step has been made"
        return self._estimate

    def history(self) -> dict[str, Tensor]:
        return {}

    def restore(self, history: dict[str, Tensor]) -> None:
        assert not history, "of another solver"


class MultistepSolver:
    """A sampler that extrapolates from the predictions of earlier steps.

    Args:
        scheduler: A new scheduler of diffusers, which keeps them.
    """

    def __init__(self, scheduler: UniPCMultistepScheduler | DPMSolverMultistepScheduler) -> None:
        # A large or tiny shift makes the first timesteps equal as integers. A scheduler that looks
        # its first step up by timestep would then begin at the second.
        scheduler.set_begin_index(0)
        self._scheduler = scheduler

    @property
    def num_inference_steps(self) -> int:
        return len(self._scheduler.timesteps)

    def timestep(self, step: int) -> Tensor:
        timestep: Tensor = self._scheduler.timesteps[step]
        return timestep

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        timestep = self.timestep(step)
        advanced: Tensor = self._scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return advanced

    def estimate(self) -> Tensor:
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
        scheduler = self._scheduler
        for age in range(len(scheduler.model_outputs)):
            scheduler.model_outputs[age] = history.get(f"output_{age}")
        if "last_sample" in history:
            scheduler.last_sample = history["last_sample"]
        for name in _COUNTERS:
            if name in history:
                setattr(scheduler, name, int(history[name].item()))


def unipc_scheduler(num_inference_steps: int, shift: float) -> UniPCMultistepScheduler:
    """Return UniPC with Wan2.1's own schedule, which is not diffusers' default.

    Source:
        Wan2.1 `wan/utils/fm_solvers_unipc.py`.
    """
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=max(shift, _MIN_SHIFT),
    )
    # Unshifted sigmas: the scheduler applies the shift.
    scheduler.set_timesteps(sigmas=np.linspace(_MAX_SIGMA, 0.0, num_inference_steps + 1)[:-1])
    return scheduler


def dpm_plus_plus_scheduler(num_inference_steps: int, shift: float) -> DPMSolverMultistepScheduler:
    """Return DPM++ with Wan2.1's own schedule, which is not diffusers' default.

    Source:
        Wan2.1 `wan/utils/fm_solvers.py`.
    """
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=max(shift, _MIN_SHIFT),
    )
    scheduler.set_timesteps(num_inference_steps)
    # With flow sigmas this scheduler accepts no custom ones, so replace them afterwards.
    sigmas = _shifted(np.linspace(1, 0, num_inference_steps + 1), shift)
    scheduler.sigmas = torch.from_numpy(sigmas.astype(np.float32))
    scheduler.timesteps = torch.from_numpy((sigmas[:-1] * NUM_TRAIN_TIMESTEPS).astype(np.int64))
    return scheduler


def _shifted(sigmas: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    shift = max(shift, _MIN_SHIFT)
    return shift * sigmas / (1 + (shift - 1) * sigmas)
