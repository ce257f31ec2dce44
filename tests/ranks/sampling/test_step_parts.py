"""How a long step is divided, and how the run ends within one."""

import pytest

from ranks.device import Device
from ranks.errors import RunCancelled
from ranks.sampling.step_parts import FIRST_PARTS, StepPace, StepParts

CPU = Device(kind="cpu", index=0)


def test_long_steps_get_a_part_a_second_and_short_ones_none() -> None:
    pace = StepPace()
    assert pace.num_parts(1.0) == FIRST_PARTS
    pace.learn(2.0, 40.0)
    assert [pace.num_parts(work) for work in (2.0, 0.2, 0.1, 0.09, 0.001)] == [40, 4, 2, 1, 1]


@pytest.mark.parametrize(
    ("num_parts", "num_blocks", "expected"),
    [
        (1, 40, []),
        (4, 8, [0.25, 0.5, 0.75]),
        (3, 8, [2 / 8, 5 / 8]),
        (99, 4, [0.25, 0.5, 0.75]),
    ],
)
def test_the_blocks_of_a_step_are_divided_evenly(
    num_parts: int, num_blocks: int, expected: list[float]
) -> None:
    found: list[float] = []
    parts = StepParts(CPU, found.append)
    parts.num_parts = num_parts
    for _ in range(2):
        found.clear()
        parts.begin_step(num_blocks)
        assert all(parts.goes_on() for _ in range(num_blocks))
        parts.end_step()
        assert found == expected


def test_no_block_runs_after_the_boundary_at_which_the_run_ends() -> None:
    def finish_part(done: float) -> None:
        raise RunCancelled

    parts = StepParts(CPU, finish_part)
    parts.num_parts = 2
    parts.begin_step(4)
    assert [parts.goes_on() for _ in range(4)] == [True, True, False, False]
    with pytest.raises(RunCancelled):
        parts.end_step()
