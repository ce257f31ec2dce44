"""Blocks that take turns on the device: how many are there, and how often each is copied."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ranks.device import Device
from ranks.model.block_streaming import BlockStreaming, spread
from ranks.model.hosted_weights import num_at_once, pinned_bytes

CPU = Device(kind="cpu", index=0)
NUM_BLOCKS = 6
WIDTH = 8


class Block(nn.Module):
    """Adds the sum of its weights, of two dtypes; may fail."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((WIDTH, WIDTH), float(number)), requires_grad=False)
        self.bias = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(2.0))
        self.fails = False
        self.home: int | None = None
        """Where its weight lies in host memory, from which nothing may be computed."""

    def forward(self, total: Tensor) -> Tensor:
        if self.fails:
            raise ValueError("failure that the test asked for")
        assert self.weight.data_ptr() != self.home
        result: Tensor = total * self.scale + self.weight.sum() + self.bias.float().sum()
        return result


def stream(blocks: Sequence[Block], num_resident: int) -> BlockStreaming:
    """Move the blocks to the host and to the device."""
    streaming = BlockStreaming(blocks, num_resident, CPU)
    for block in blocks:
        block.home = block.weight.data_ptr()
    streaming.place()
    return streaming


def run(blocks: Sequence[nn.Module]) -> Tensor:
    total = torch.zeros(())
    for block in blocks:
        total = block(total)
    return total


@pytest.fixture
def blocks() -> list[Block]:
    return [Block(number) for number in range(NUM_BLOCKS)]


@pytest.mark.parametrize("num_resident", range(NUM_BLOCKS + 1))
def test_a_pass_computes_the_same_and_copies_each_streamed_block_once(
    blocks: list[Block], num_resident: int
) -> None:
    expected = run(blocks)
    streaming = stream(blocks, num_resident)
    block_bytes = streaming.host_bytes // NUM_BLOCKS
    num_streamed = NUM_BLOCKS - num_resident
    most = min(num_resident + 2, NUM_BLOCKS) * block_bytes
    for num_passes in (1, 2, 3):
        assert torch.equal(run(blocks), expected)
        # The next pass's first is copied while the last one runs; two blocks never move again.
        per_pass = num_streamed if num_streamed > 2 else 0
        begun = min(num_streamed, 1) if num_streamed > 2 else num_streamed
        assert streaming.num_copies == num_resident + num_passes * per_pass + begun
        assert streaming.device_bytes == most
    streaming.release()
    assert streaming.device_bytes == 0
    assert torch.equal(run_on_host(blocks), expected)


def run_on_host(blocks: Sequence[Block]) -> Tensor:
    """Without the hooks, which want the blocks on the device."""
    total = torch.zeros(())
    for block in blocks:
        block.home = None
        total = block.forward(total)
    return total


@pytest.mark.parametrize("failing", [0, 1, 2, 5])
def test_a_pass_that_fails_leaves_the_next_one_right(blocks: list[Block], failing: int) -> None:
    expected = run(blocks)
    streaming = stream(blocks, 0)
    blocks[failing].fails = True
    with pytest.raises(ValueError, match="asked for"):
        run(blocks)
    blocks[failing].fails = False
    assert torch.equal(run(blocks), expected)
    streaming.release()
    streaming.place()
    assert torch.equal(run(blocks), expected)


def test_what_a_block_does_to_the_device_never_reaches_the_host(blocks: list[Block]) -> None:
    streaming = stream(blocks, 1)
    expected = run(blocks)
    placed = [packed.module for packed in streaming._blocks if packed.is_placed]
    assert len(placed) == 3
    for block in placed:
        block.get_parameter("weight").zero_()
    streaming.release()
    streaming.place()
    assert torch.equal(run(blocks), expected)


def test_the_blocks_that_stay_are_evenly_spread() -> None:
    assert spread(6, 0) == frozenset()
    assert spread(6, 3) == {1, 3, 5}
    assert spread(6, 6) == set(range(6))
    for number in range(41):
        chosen = sorted(spread(40, number))
        assert len(chosen) == number
        gaps = {after - before for before, after in pairwise(chosen)}
        assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("block_bytes", [807_758_848, 702_870_528, 327_362_560])
def test_little_pinned_memory_is_lost_to_powers_of_two(block_bytes: int) -> None:
    piece = num_at_once(block_bytes) * block_bytes
    assert pinned_bytes(piece) < 1.07 * piece
