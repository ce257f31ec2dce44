"""Layouts: the branch and the shard of every rank."""

import pytest

from ranks.parallel.layout import Layout, split_evenly


def test_cfg_2_by_ulysses_4_fills_eight_ranks() -> None:
    layout = Layout(world_size=8, cfg_size=2, ulysses_size=4)
    assert [layout.branch(rank) for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [layout.shard(rank) for rank in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert layout.ulysses_groups == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert layout.cfg_groups == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_remaining_ranks_are_replicas() -> None:
    layout = Layout(world_size=8, cfg_size=2, ulysses_size=2)
    assert [layout.branch(rank) for rank in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert layout.ulysses_groups == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.cfg_groups == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_a_layout_that_does_not_divide_the_world_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match=r"cfg_size 2 times ulysses_size 3 .* the 8 ranks"):
        Layout(world_size=8, cfg_size=2, ulysses_size=3)


@pytest.mark.parametrize(
    ("num_tokens", "ulysses_size", "sizes"),
    [(16, 4, [4, 4, 4, 4]), (10, 4, [3, 3, 2, 2]), (3, 4, [1, 1, 1, 0])],
)
def test_shards_differ_by_one_token_at_most(
    num_tokens: int, ulysses_size: int, sizes: list[int]
) -> None:
    assert split_evenly(num_tokens, ulysses_size) == sizes
