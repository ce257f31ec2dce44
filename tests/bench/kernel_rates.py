"""Rates of the element-wise functions of a block, in each of their forms."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ranks.device import Device
from ranks.kernel_trial import can_run
from ranks.model.kernels import KernelForm, Kernels
from tests.bench.budget import Works
from tests.bench.device_rates import time_s
from tests.bench.real_steps import Arguments

FORMS: tuple[KernelForm, ...] = get_args(KernelForm)


def kernel_rates(device: Device, arguments: Arguments) -> Works:
    """Yield each function in each form that works on the device.

    The compiler's form is the best that it can be: of this number of tokens alone.
    """
    forms = [form for form in FORMS if can_run(form, device.torch_device)]
    for name, args in arguments.items():
        for form in forms:
            yield f"kernel/{name}, {form}", partial(_measure, device, form, name, args)


def _measure(
    device: Device, form: KernelForm, name: str, args: tuple[Any, ...]
) -> dict[str, float]:
    torch.compiler.reset()
    function: Callable[..., Any] = getattr(Kernels(form), name)
    taken_s = time_s(device, partial(function, *args), repeats=9, warm_ups=2)
    num_bytes = _num_bytes((args, function(*args)))
    return {"ms": taken_s * 1e3, "gb_s": num_bytes / taken_s / 1e9}


def _num_bytes(tree: Any) -> int:
    """Return the bytes of all tensors: what goes in and comes out."""
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
