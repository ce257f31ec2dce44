"""Changes of a rank that tests ask for: what `GroupTask.patch` and `RankGroup` name."""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from ranks.device import Device


@contextmanager
def float32() -> Iterator[None]:
    """Let all models compute in float32, so that frames can be compared closely."""
    dtype = property(lambda device: torch.float32)
    with mock.patch.multiple(Device, model_dtype=dtype, vae_dtype=dtype):
        yield


@contextmanager
def older_cann() -> Iterator[None]:
    """Let ranks send and receive as torch_npu does where Ascend's runtime is older than 9."""
    with mock.patch.dict(dist.batch_isend_irecv.__globals__, _CANN_VERSION=False):
        yield


@contextmanager
def out_of_memory(number: str) -> Iterator[None]:
    """Let the n-th allocation on the device fail."""
    npu = importlib.import_module("torch_npu.npu")
    npu.fail_allocation(int(number))
    try:
        yield
    finally:
        npu.fail_allocation(0)


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A mistake that computing on the CPU would not show.

    Args:
        function: Where it is made, as `MODULE:NAME`.
        right: A part of the function's source, which occurs once.
        wrong: What replaces it.
    """

    function: str
    right: str
    wrong: str


DEFECTS = {
    "tables left on the CPU": Defect(
        function="ranks.model.transformer:ShardTransformer.rope_tables",
        right="cos[..., 0::2].contiguous().to(device)",
        wrong="cos[..., 0::2].contiguous().to('cpu')",
    ),
    "latents not moved": Defect(
        function="ranks.run:Run._start_denoiser",
        right=".to(self._engine.device.torch_device)",
        wrong="",
    ),
    "VAE statistics on the CPU": Defect(
        function="ranks.model.vae:_statistics",
        right="mean.to(like.device, like.dtype)",
        wrong="mean.to(like.dtype)",
    ),
    "double timesteps": Defect(
        function="ranks.sampling.denoise:Predictor.predict",
        right="timestep.to(device)",
        wrong="timestep.to(device, torch.float64)",
    ),
    "a wait in a block": Defect(
        function="ranks.model.transformer:ShardTransformer._pass_blocks",
        right="streams = block(streams, branches, modulation)",
        wrong="streams = block(streams, branches, modulation); streams[0].hidden_BLC.max().item()",
    ),
    "an uninitialised mask": Defect(
        function="ranks.families.wan21_i2v:given_frames_mask",
        right="latents.new_zeros(",
        wrong="latents.new_empty(",
    ),
}


@contextmanager
def defect(name: str) -> Iterator[None]:
    """Put a mistake into the product's code, in this process."""
    made = DEFECTS[name]
    module_name, _, path = made.function.partition(":")
    module = importlib.import_module(module_name)
    function: Any = reduce(getattr, path.split("."), module)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(made.right) == 1, f"{made.function} has changed: adapt {name!r}"
    namespace = dict(vars(module))
    exec(source.replace(made.right, made.wrong), namespace)
    right_code = function.__code__
    # Its code is replaced, not the function: other modules have imported that by name.
    function.__code__ = namespace[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = right_code
