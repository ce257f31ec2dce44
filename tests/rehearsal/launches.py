"""Records the Triton kernels that are launched: those of the compiler, and those of the project."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch._inductor.config
from torch import Tensor
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.rehearsal.machine_code import MachineCode, read_machine_code


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Args:
        code: The kernel.
        num_warps: Warps of each program.
        num_programs: How many there are.
        num_bytes: What they read from memory and write to it, each tensor once.
    """

    code: MachineCode
    num_warps: int
    num_programs: int
    num_bytes: int


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Yield the list of what is launched from now on."""
    launches: list[Launch] = []
    run_written: Callable[..., Any] = JITFunction.run
    run_compiled: Callable[..., Any] = CachingAutotuner.run

    def note_written(self: Any, *args: Any, grid: Any, **options: Any) -> Any:
        kernel = run_written(self, *args, grid=grid, **options)
        launches.append(_launch(kernel, math.prod(grid), args))
        return kernel

    def note_compiled(self: Any, *args: Any, **options: Any) -> Any:
        result = run_compiled(self, *args, **options)
        sizes = [number for number in args if isinstance(number, int)]
        # The first size is divided into blocks; a reduction's program goes through the second.
        num_programs = -(-sizes[0] // self.launchers[0].config.kwargs["XBLOCK"])
        launches.append(_launch(self.compile_results[0].kernel, num_programs, args))
        return result

    with (
        patch.object(JITFunction, "run", note_written),
        patch.object(CachingAutotuner, "run", note_compiled),
        # The other launcher does not keep the kernel's code.
        torch._inductor.config.patch(use_static_cuda_launcher=False),
    ):
        yield launches


@contextmanager
def compiling_for(capability: int) -> Iterator[None]:
    """Let Triton compile for a kind of device, 80 or 90."""
    target = GPUTarget("cuda", capability, 32)
    with patch.object(driver.active, "get_current_target", lambda: target):
        yield


def _launch(kernel: Any, num_programs: int, args: tuple[Any, ...]) -> Launch:
    tensors = {arg.data_ptr(): arg.nbytes for arg in args if isinstance(arg, Tensor)}
    return Launch(
        code=read_machine_code(kernel.asm["cubin"]),
        num_warps=kernel.metadata.num_warps,
        num_programs=num_programs,
        num_bytes=sum(tensors.values()),
    )
