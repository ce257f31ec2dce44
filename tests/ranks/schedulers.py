"""Diffusers' schedulers with the schedules of our solvers, for its pipelines as a reference."""

from typing import Any

import numpy as np
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from broker.wire.job import Solver
from ranks.sampling.solver import dpm_plus_plus_scheduler, unipc_scheduler


def make_scheduler(name: Solver, num_inference_steps: int, shift: float) -> Any:
    schedulers = {"unipc": unipc_scheduler, "dpm++": dpm_plus_plus_scheduler, "euler": _euler}
    scheduler = schedulers[name](num_inference_steps, shift)
    scheduler.set_begin_index(0)
    return scheduler


def _euler(num_inference_steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1])
    return scheduler
