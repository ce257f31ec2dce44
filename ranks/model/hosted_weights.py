"""Weights that are kept in host memory, and are on the device only while they are needed.

The weights never change after loading. So the copy on the device can be dropped at any time, and
is made anew from the one in host memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ranks.device import Device

_ALIGNMENT = 256
"""Bytes. Kernels read fastest from such addresses; any dtype may begin there."""

_MOST_AT_ONCE = 16
"""Modules that share a piece of host memory."""


@dataclass(frozen=True)
class _Holder:
    """Where a module has a weight or a buffer."""

    module: nn.Module
    name: str
    is_parameter: bool

    def put(self, tensor: Tensor) -> None:
        if self.is_parameter:
            self.module._parameters[self.name] = nn.Parameter(tensor, requires_grad=False)
        else:
            self.module._buffers[self.name] = tensor


class HostedModel:
    """A model that comes to the device when it is called, and stays until it is released.

    Args:
        model: On the CPU.
        device: Where it computes.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._weights = list(_weights(model))
        self._device = device
        self._is_placed = False
        model.register_forward_pre_hook(self._place)

    @property
    def host_bytes(self) -> int:
        return sum(host.nbytes for _, host in self._weights)

    @property
    def device_bytes(self) -> int:
        return self.host_bytes if self._is_placed else 0

    def release(self) -> None:
        self._is_placed = False
        for places, host in self._weights:
            _put(places, host)

    def _place(self, *_: Any) -> None:
        if self._is_placed:
            return
        self._is_placed = True  # also if the device has no room for all of it: it is released then
        for places, host in self._weights:
            # A copy on the CPU, too, where both are the same memory.
            _put(places, torch.empty_like(host, device=self._device).copy_(host))


class Packed:
    """A module whose weights lie side by side in one piece of memory.

    Args:
        module: On the CPU.
        host: Bytes in host memory that its weights are moved to.
    """

    def __init__(self, module: nn.Module, host: Tensor) -> None:
        self.module = module
        self.host = host
        self.is_placed = False
        self._layout = [
            (places, weight.dtype, weight.shape, offset)
            for (places, weight), offset in zip(_weights(module), _offsets(module), strict=False)
        ]
        for (_, weight), view in zip(_weights(module), self._views(host), strict=True):
            view.copy_(weight)
        self.to_host()

    def use(self, content: Tensor) -> None:
        """Take the weights from bytes on the device, which have been copied or will be."""
        self._point_to(content)
        self.is_placed = True

    def to_host(self) -> None:
        self._point_to(self.host)
        self.is_placed = False

    def _point_to(self, content: Tensor) -> None:
        for (places, *_), view in zip(self._layout, self._views(content), strict=True):
            _put(places, view)

    def _views(self, content: Tensor) -> Iterator[Tensor]:
        for _, dtype, shape, offset in self._layout:
            num_bytes = shape.numel() * dtype.itemsize
            yield content[offset : offset + num_bytes].view(dtype).view(shape)


def pack(modules: Sequence[nn.Module], device: Device) -> list[Packed]:
    """Move the weights of modules to host memory from which `device` copies fastest."""
    sizes = [_offsets(module)[-1] for module in modules]
    at_once = num_at_once(max(sizes))
    packed = []
    for first in range(0, len(modules), at_once):
        here = slice(first, first + at_once)
        pieces = device.empty_host(sum(sizes[here])).split(sizes[here])
        packed += [Packed(*pair) for pair in zip(modules[here], pieces, strict=True)]
    return packed


def num_at_once(num_bytes: int) -> int:
    """Return how many modules of a size share a piece, so that little is lost.

    Pinned memory is given out in powers of two: a piece for one block of the 14B model would lose a
    quarter of it.
    """
    return min(
        range(1, _MOST_AT_ONCE + 1),
        key=lambda number: pinned_bytes(number * num_bytes) / (number * num_bytes),
    )


def pinned_bytes(num_bytes: int) -> int:
    """Return what a piece of pinned memory takes."""
    return 1 << (num_bytes - 1).bit_length()


def _offsets(module: nn.Module) -> list[int]:
    """Return where each weight begins, and where the last one ends."""
    offsets = [0]
    for _, weight in _weights(module):
        offsets.append(offsets[-1] + -(-weight.nbytes // _ALIGNMENT) * _ALIGNMENT)
    return offsets


def _weights(model: nn.Module) -> Iterable[tuple[list[_Holder], Tensor]]:
    """Return each weight and buffer with all its places: weights may be tied."""
    found: dict[int, tuple[list[_Holder], Tensor]] = {}
    for module in model.modules():
        for is_parameter, held in ((True, module._parameters), (False, module._buffers)):
            for name, tensor in held.items():
                if tensor is not None:
                    places, _ = found.setdefault(id(tensor), ([], tensor))
                    places.append(_Holder(module, name, is_parameter))
    return [(places, tensor.detach()) for places, tensor in found.values()]


def _put(places: list[_Holder], tensor: Tensor) -> None:
    for place in places:
        place.put(tensor)
