"""The samplers, with their history explicit: UniPC and DPM++ of Wan2.1, and Euler.

They run in float32 on the device of the latents.
"""

from collections.abc import Sequence
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

    Each step adds tensors up. By what weights is the scheduler's to say: it makes the step on the
    CPU with unit vectors in the place of the tensors, and what comes out are the weights. So its
    many small operations, of which some would make the host wait for the device and others have no
    kernel on an NPU, stay on the CPU, while the latents stay on their device.

    Args:
        scheduler: A new scheduler of diffusers, which is linear in latents, velocity and history.
    """

    def __init__(self, scheduler: UniPCMultistepScheduler | DPMSolverMultistepScheduler) -> None:
        # A large or tiny shift makes the first timesteps equal as integers. A scheduler that looks
        # its first step up by timestep would then begin at the second.
        scheduler.set_begin_index(0)
        self._scheduler = scheduler
        self._kept: dict[str, Tensor] = {}
        """Tensors of earlier steps, named as `history` names them.

        Sorted, because sums depend on the order, which a file does not keep.
        """

    @property
    def num_inference_steps(self) -> int:
        return len(self._scheduler.timesteps)

    def timestep(self, step: int) -> Tensor:
        timestep: Tensor = self._scheduler.timesteps[step]
        return timestep

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        tensors = [latents, velocity, *self._kept.values()]
        units = torch.eye(len(tensors)).split(1)  # each `[1, n]`: the scheduler wants a batch
        self._put(dict(zip(self._kept, units[2:], strict=True)))
        advanced = self._scheduler.step(units[1], self.timestep(step), units[0], return_dict=False)
        taken = self._taken()
        self._kept = {name: _sum(taken[name], tensors) for name in sorted(taken)}
        return _sum(advanced[0], tensors)

    def estimate(self) -> Tensor:
        return self._kept[f"output_{len(self._scheduler.model_outputs) - 1}"]

    def history(self) -> dict[str, Tensor]:
        counters = {name: getattr(self._scheduler, name, None) for name in _COUNTERS}
        return self._kept | {
            name: torch.tensor(count) for name, count in counters.items() if count is not None
        }

    def restore(self, history: dict[str, Tensor]) -> None:
        self._kept = {name: history[name] for name in sorted(history.keys() - {*_COUNTERS})}
        for name in _COUNTERS:
            if name in history:
                setattr(self._scheduler, name, int(history[name].item()))

    def _put(self, kept: dict[str, Tensor]) -> None:
        outputs = self._scheduler.model_outputs
        outputs[:] = [kept.get(f"output_{age}") for age in range(len(outputs))]
        if "last_sample" in kept:
            self._scheduler.last_sample = kept["last_sample"]

    def _taken(self) -> dict[str, Tensor]:
        outputs = enumerate(self._scheduler.model_outputs)
        taken = {f"output_{age}": output for age, output in outputs if output is not None}
        last_sample = getattr(self._scheduler, "last_sample", None)
        return taken if last_sample is None else taken | {"last_sample": last_sample}


def _sum(weights: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors with weights `[1, n]`; one that is just one of them, as it is."""
    terms = [
        (weight, tensor)
        for weight, tensor in zip(weights[0].tolist(), tensors, strict=True)
        if weight != 0
    ]
    (weight, total), *others = terms
    if weight != 1:
        total = total * weight
    for weight, tensor in others:
        total = total.add(tensor, alpha=weight)
    return total


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
