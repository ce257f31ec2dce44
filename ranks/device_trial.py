"""What a start needs of the devices, tried without a model, on every rank at once.

A rank of `launch.py --check` joins the group as a rank of a server does, computes a little, and
compares what comes out: a driver that answers is not yet a device that computes.
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
from ranks.model.conditioning import NUM_TEXT_TOKENS
from ranks.parallel.process_group import START_LIMIT, World, join
from ranks.serve import reporting_failure

logger = logging.getLogger(__name__)

_ALLOCATION_BYTES = 1 << 28
_HEAD_DIM = 128
_NUM_QUERIES = 384


def try_device(config: RankConfig, rank: int) -> None:
    """Try this rank's device and the exchange with the others; then wait to be ended.

    Raises:
        Exception: What the trial met; the launcher has been told.
    """
    with reporting_failure(config, rank):
        device = open_device(config.device, config.first_device + rank, config.world_size)
        with torch.inference_mode(), device.attention_order():
            try_allocation(device)
            try_attention(device)
            world = join(config.rendezvous, rank, config.world_size, device)
            try_exchange(world, device)
            world.await_all(START_LIMIT)
    report(config.ready_fd, f"ready {rank}")
    # The end of one rank would count as the failure of all.
    signal.pause()


def try_allocation(device: Device) -> None:
    """Write to memory of the device, and read it back.

    Raises:
        DeviceError: If it does not hold what was written.
    """
    written = torch.ones(_ALLOCATION_BYTES // 4, device=device.torch_device)
    found = float(written.mean())
    if found != 1.0:
        raise DeviceError(f"{device.name}: memory that was filled with 1 has a mean of {found}")


def try_attention(device: Device) -> None:
    """Attend as the model's cross-attention does.

    Raises:
        DeviceError: If the result is wrong.
    """
    shape = (1, _NUM_QUERIES, 1, _HEAD_DIM)
    query = torch.zeros(shape, dtype=device.model_dtype, device=device.torch_device)
    keys = torch.ones(1, NUM_TEXT_TOKENS, 1, _HEAD_DIM, dtype=query.dtype, device=query.device)
    # All weights are equal, so that the output is the mean of the values.
    found = dispatch_attention_fn(query, keys, keys, backend=device.attention_backend)
    error = float((found - 1.0).abs().max())
    if not error < 0.01:
        raise DeviceError(f"{device.name}: attention over equal values is wrong by {error}")


def try_exchange(world: World, device: Device) -> None:
    """Send every rank a number and take one from each, as a split sequence does.

    Raises:
        DeviceError: If other numbers arrive than were sent.
    """
    size = world.world_size
    sent = torch.full((size,), float(world.rank), device=device.torch_device)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    found = received.tolist()
    if found != [float(rank) for rank in range(size)]:
        raise DeviceError(f"{device.name}: of ranks 0 to {size - 1} the numbers {found} arrived")
