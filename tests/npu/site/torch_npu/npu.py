"""`torch.npu`: what torch, FSDP, diffusers and this project use of it.

There is one stream, and work is done when its call returns: streams and events are names only.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import torch

from .extension import native

_Wanted = torch.device | str | int | None

_local = threading.local()


class Event:
    """A point in a stream."""

    def __init__(self, enable_timing: bool = False, **options: object) -> None:
        self._recorded_s = 0.0

    def record(self, stream: "Stream | None" = None) -> None:
        """Note the time."""
        self._recorded_s = time.perf_counter()

    def wait(self, stream: "Stream | None" = None) -> None:
        """Return: everything is done."""

    def query(self) -> bool:
        """Return whether the work before it is done."""
        return True

    def synchronize(self) -> None:
        """Count that the host waits, though not for work that it has queued since."""
        native.count("await event")

    def elapsed_time(self, end: "Event") -> float:
        """Return the milliseconds until another event."""
        return (end._recorded_s - self._recorded_s) * 1000.0


class Stream:
    """A name for the one stream."""

    def __init__(self, device: _Wanted = None, priority: int = 0, **options: object) -> None:
        self.device = torch.device("npu", _index(device))
        self.priority = priority

    def wait_stream(self, stream: "Stream") -> None:
        """Return: everything is done."""

    def wait_event(self, event: Event) -> None:
        """Return: everything is done."""

    def record_event(self, event: Event | None = None) -> Event:
        """Return an event that notes the time."""
        recorded = event or Event()
        recorded.record(self)
        return recorded

    def query(self) -> bool:
        """Return whether all work is done."""
        return True

    def synchronize(self) -> None:
        """Count that the host waits."""
        native.count("synchronize")


class StreamContext:
    """Makes a stream the current one of a thread."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        self._outer = current_stream()
        set_stream(self._stream or self._outer)

    def __exit__(self, *error: object) -> None:
        set_stream(self._outer)


class device:
    """Makes a device the current one of a thread."""

    def __init__(self, device: _Wanted) -> None:
        self._index = _index(device)

    def __enter__(self) -> Self:
        self._outer = current_device()
        native.set_device(self._index)
        return self

    def __exit__(self, *error: object) -> None:
        native.set_device(self._outer)


stream = StreamContext


def current_stream(device: _Wanted = None) -> Stream:
    """Return the stream that the thread has chosen."""
    if not hasattr(_local, "stream"):
        _local.stream = Stream()
    chosen: Stream = _local.stream
    return chosen


def default_stream(device: _Wanted = None) -> Stream:
    """Return a name of the one stream."""
    return Stream(device)


def set_stream(stream: Stream) -> None:
    """Choose a stream for this thread."""
    _local.stream = stream


def is_available() -> bool:
    """Return whether there are devices; it leaves the process free to fork."""
    return device_count() > 0


def device_count() -> int:
    """Return the number of devices; it leaves the process free to fork."""
    count: int = native.device_count()
    return count


def init() -> None:
    """Begin to use the devices."""
    native.init()


_lazy_init = init


def _lazy_call(call: Callable[[], object]) -> None:
    call()


def is_initialized() -> bool:
    """Return whether this process uses the devices."""
    return bool(native.is_initialized())


def _is_in_bad_fork() -> bool:
    return bool(native.is_in_bad_fork())


def current_device() -> int:
    """Return the index of the thread's device."""
    index: int = native.current_device()
    return index


def set_device(device: _Wanted) -> None:
    """Choose the thread's device."""
    native.set_device(_index(device))


def synchronize(device: _Wanted = None) -> None:
    """Count that the host waits."""
    _index(device)
    native.count("synchronize")


def memory_allocated(device: _Wanted = None) -> int:
    """Return the bytes that tensors hold."""
    return _memory(device)["allocated"]


def max_memory_allocated(device: _Wanted = None) -> int:
    """Return the most that tensors have held."""
    return _memory(device)["peak"]


def memory_reserved(device: _Wanted = None) -> int:
    """Return the bytes that a caching allocator would hold: the peak since it last let go."""
    return _memory(device)["reserved"]


def max_memory_reserved(device: _Wanted = None) -> int:
    """Return the most that a caching allocator would have held."""
    return _memory(device)["max_reserved"]


def reset_peak_memory_stats(device: _Wanted = None) -> None:
    """Let the peaks begin anew."""
    native.reset_peak(_index(device))


def mem_get_info(device: _Wanted = None) -> tuple[int, int]:
    """Return free and total bytes of a device."""
    memory = _memory(device)
    return memory["capacity"] - memory["reserved"], memory["capacity"]


def empty_cache() -> None:
    """Let go of what no tensor holds; an entry in the log says what is left."""
    if is_initialized():
        native.empty_cache()
        _log()


def get_device_properties(device: _Wanted = None) -> SimpleNamespace:
    """Return name and memory of a device."""
    return SimpleNamespace(
        name=get_device_name(device), total_memory=_memory(device)["capacity"], cube_core_num=24
    )


def get_device_name(device: _Wanted = None) -> str:
    """Return the name of a chip that has these operators."""
    return "Ascend910B3"


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the dtypes for autocast."""
    return [torch.float16, torch.bfloat16]


def is_bf16_supported() -> bool:
    """Return whether the chip computes in bfloat16."""
    return True


def manual_seed(seed: int) -> None:
    """Do nothing: no noise is drawn on the device."""


manual_seed_all = manual_seed


def get_rng_state(device: _Wanted = "npu") -> torch.Tensor:
    """Return the CPU's state, since its kernels compute."""
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: _Wanted = "npu") -> None:
    """Set the CPU's state."""
    torch.set_rng_state(state)


def counts() -> dict[str, int]:
    """Return how often what has happened in this process; the real package has no such function."""
    counted: dict[str, int] = native.counts()
    return counted


def fail_allocation(number: int) -> None:
    """Let the n-th allocation from now on fail; the real package has no such function."""
    native.fail_allocation(number)


def _index(device: _Wanted) -> int:
    index = device if isinstance(device, int) else None
    if isinstance(device, (str, torch.device)):
        index = torch.device(device).index
    return current_device() if index is None or index < 0 else index


def _memory(device: _Wanted) -> dict[str, int]:
    memory: dict[str, int] = native.memory(_index(device))
    return memory


def _log() -> None:
    folder = os.environ.get("NPU_STAND_IN_LOG")
    if folder:
        entry = {
            "device": current_device(),
            "foreign_bytes": sum(
                native.memory(index)["peak"]
                for index in range(device_count())
                if index != current_device()
            ),
            "memory": _memory(None),
            "counts": counts(),
        }
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
