"""Blocks of a transformer in host memory, which are copied to the device as steps need them.

Some blocks may stay on the device while steps are computed. The others take turns in two buffers:
while one computes, the next is copied into the other buffer. The weights never change, so nothing
is copied back, and a step that ends early leaves nothing to repair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ranks.copy_stream import CopyEvent, CopyStream
from ranks.device import Device
from ranks.model.hosted_weights import Packed, pack


@dataclass
class _Buffer:
    """A place on the device for one block at a time."""

    content: Tensor
    block: Packed | None = None
    copied: CopyEvent = None


class BlockStreaming:
    """The blocks of one transformer.

    Args:
        blocks: In the order in which they run, on the CPU. They must be called as modules.
        num_resident: How many of them stay on the device between `place` and `release`.
        device: Where they compute.
    """

    def __init__(self, blocks: Sequence[nn.Module], num_resident: int, device: Device) -> None:
        self._device = device
        self._copies: CopyStream = device.copy_stream()
        self._blocks = pack(blocks, device)
        resident = spread(len(blocks), num_resident)
        self._resident = [self._blocks[index] for index in resident]
        self._streamed = [b for index, b in enumerate(self._blocks) if index not in resident]
        self._buffers: list[_Buffer] = []
        self._pending: CopyEvent = None
        self.num_copies = 0
        """Blocks copied so far."""
        for position, packed in enumerate(self._streamed):
            packed.module.register_forward_pre_hook(partial(self._prepare, position))

    @property
    def host_bytes(self) -> int:
        return sum(packed.host.nbytes for packed in self._blocks)

    @property
    def device_bytes(self) -> int:
        """The bytes of all blocks that are on the device now."""
        resident = sum(packed.host.nbytes for packed in self._resident if packed.is_placed)
        return resident + sum(buffer.content.nbytes for buffer in self._buffers)

    @property
    def is_placed(self) -> bool:
        return any(packed.is_placed for packed in self._blocks)

    def place(self) -> None:
        """Copy the blocks that stay, and the first that does not."""
        for packed in self._resident:
            if not packed.is_placed:
                content = self._empty(packed)
                self._pending = self._copy(packed, content)
        if self._streamed and not self._buffers:
            largest = max(self._streamed, key=lambda packed: packed.host.nbytes)
            num_buffers = min(2, len(self._streamed))
            self._buffers = [_Buffer(self._empty(largest)) for _ in range(num_buffers)]
            self._fill(self._buffers[0], self._streamed[0])
        self._copies.join(self._pending)

    def release(self) -> None:
        """Leave the device; copies that are under way end before their memory is used again."""
        self._copies.finish()
        for packed in self._blocks:
            packed.to_host()
        self._buffers.clear()

    def _prepare(self, position: int, *_: Any) -> None:
        """Have a block on the device before it runs, and begin to copy the next one."""
        assert self._buffers, "a streamed block runs before `place`"
        packed = self._streamed[position]
        following = self._streamed[(position + 1) % len(self._streamed)]
        buffer = self._buffer_of(packed)
        if buffer is None:  # the first of a pass, after one that ended early
            buffer = self._buffers[0]
            self._fill(buffer, packed)
        self._copies.join(buffer.copied)
        if self._buffer_of(following) is None:
            other = next(each for each in self._buffers if each is not buffer)
            self._fill(other, following)

    def _buffer_of(self, packed: Packed) -> _Buffer | None:
        return next((buffer for buffer in self._buffers if buffer.block is packed), None)

    def _fill(self, buffer: _Buffer, packed: Packed) -> None:
        if buffer.block is not None:
            buffer.block.to_host()
            buffer.block = None
        buffer.copied = self._copy(packed, buffer.content[: packed.host.nbytes])
        buffer.block = packed

    def _copy(self, packed: Packed, content: Tensor) -> CopyEvent:
        event = self._copies.start(content, packed.host)
        packed.use(content)
        self.num_copies += 1
        return event

    def _empty(self, packed: Packed) -> Tensor:
        return torch.empty_like(packed.host, device=self._device.torch_device)


def spread(num_blocks: int, num_chosen: int) -> frozenset[int]:
    """Return which blocks stay: evenly spread, so that every copy has as long to hide behind."""
    return frozenset(
        index
        for index in range(num_blocks)
        if (index + 1) * num_chosen // num_blocks > index * num_chosen // num_blocks
    )
