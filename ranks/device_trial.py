"""The device test of `launch.py --check`: memory, attention and collectives, without a model.

Every rank joins the group as a rank of the server does, computes a little and checks the results: a
driver that answers does not prove a device that computes.
"""

import logging
import signal

import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import dispatch_attention_fn

from broker.process.child import report
from ranks.config import RankConfig
from ranks.device import Device, open_device
from ranks.errors import DeviceError
from ranks.parallel.process_group import START_LIMIT, World, join
from ranks.start_failure import reporting_failure

logger = logging.getLogger(__name__)

_ALLOCATION_BYTES = 1 << 28
_HEAD_DIM = 128
_NUM_QUERIES, _NUM_KEYS = 384, 512


def try_device(config: RankConfig, rank: int) -> None:
    """Test this rank's device and its collectives, then wait for a signal to end.

    Raises:
        Exception: If the test fails; the failure has been reported to the launcher.
    """
    with reporting_failure(config, rank):
        index = config.first_device + rank
        device = open_device(config.device, index, config.world_size, config.attention)
        with torch.inference_mode(), device.attention_order():
            try_allocation(device)
            try_attention(device)
            world = join(config.rendezvous, rank, config.world_size, device)
            try_exchange(world, device)
            world.await_all(START_LIMIT)
    report(config.ready_fd, f"ready {rank}")
    # Do not exit: the launcher takes the exit of one rank for a failure of the group.
    signal.pause()


def try_allocation(device: Device) -> None:
    """Write device memory and read it back.

    Raises:
        DeviceError: If the values differ.
    """
    written = torch.ones(_ALLOCATION_BYTES // 4, device=device.torch_device)
    mean = float(written.mean())
    if mean != 1.0:
        raise DeviceError(
            f"{device.name}: memory was filled with 1, but its mean is {mean}; "
            "the device or its driver is faulty"
        )


def try_attention(device: Device) -> None:
    """Run attention with the shapes of the model's cross-attention.

    Raises:
        DeviceError: If the result is wrong.
    """
    shape = (1, _NUM_QUERIES, 1, _HEAD_DIM)
    query = torch.zeros(shape, dtype=device.model_dtype, device=device.torch_device)
    keys = torch.ones(1, _NUM_KEYS, 1, _HEAD_DIM, dtype=query.dtype, device=query.device)
    # All weights are equal, so the output is the mean of the values.
    output = dispatch_attention_fn(query, keys, keys, backend=device.attention_backend)
    error = float((output - 1.0).abs().max())
    if not error < 0.01:
        raise DeviceError(
            f"{device.name}: attention over equal values is wrong by {error}; at most 0.01 is "
            "allowed; the device or its attention kernel is faulty"
        )


def try_exchange(world: World, device: Device) -> None:
    """Exchange numbers with an all-to-all, the collective that a split sequence uses.

    Raises:
        DeviceError: If a received number is wrong.
    """
    size = world.world_size
    sent = torch.full((size,), float(world.rank), device=device.torch_device)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    numbers = received.tolist()
    if numbers != [float(rank) for rank in range(size)]:
        raise DeviceError(
            f"{device.name}: the all-to-all should deliver the numbers 0 to {size - 1}, "
            f"but delivered {numbers}"
        )
