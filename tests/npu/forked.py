"""What tests have forks of the host do; results go to standard output."""

import json
import os
import sys
import time
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from ranks.device import open_device
from ranks.parallel.process_group import join, leave


def evaluate() -> None:
    """Evaluate expressions on device 1, from JSON to JSON."""
    torch.accelerator.set_device_index(1)
    expressions = json.load(sys.stdin)
    json.dump({text: _evaluated(text) for text in expressions}, sys.stdout)


def _evaluated(expression: str) -> str:
    """Return the value, or the first line of the error."""
    x = torch.ones(2, 2, device="npu:1")
    try:
        return str(eval(expression, {"torch": torch, "x": x}))
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def fork(before: str) -> None:
    """Use a device in a fork of this process, which before has `touched` or `counted` devices."""
    npu: Any = torch.get_device_module("npu")
    assert npu.is_available()
    assert npu.device_count() == 8
    if before == "touched":
        npu.set_device(0)
    pid = os.fork()
    if pid == 0:
        try:
            npu.set_device(0)
            sys.stdout.write("used")
        except RuntimeError as error:
            sys.stdout.write(str(error).splitlines()[0])
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)


def lose_a_peer(rendezvous: str, rank: str, limit_s: str) -> None:
    """Be one of two ranks of which rank 1 ends; rank 0 writes how long it waits for it."""
    os.environ["HCCL_EXEC_TIMEOUT"] = limit_s
    torch.accelerator.set_device_index(int(rank))
    dist.init_process_group(
        "hccl", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2
    )
    tensor = torch.ones(1, device="npu")
    dist.all_reduce(tensor)
    if rank == "1":
        os._exit(0)
    started = time.monotonic()
    try:
        dist.all_reduce(tensor)
    except RuntimeError:
        sys.stdout.write(str(time.monotonic() - started))


def join_alone(rendezvous: str) -> None:
    """Join the process groups as the only rank and leave them; write what ranks agree on."""
    world = join(rendezvous, 0, 1, open_device("npu", 0, 1))
    agreed = world.smallest(3)
    leave()
    sys.stdout.write(str(agreed))


def count_threads(num_cores: str, world_size: str) -> None:
    """Open a device as one of several ranks; write how many threads torch then uses."""
    with mock.patch.object(os, "sched_getaffinity", return_value=range(int(num_cores))):
        open_device("npu", 0, int(world_size))
    sys.stdout.write(str(torch.get_num_threads()))
