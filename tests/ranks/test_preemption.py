"""When a run makes way for a more urgent job."""

import pytest

from broker.wire.job import Stage
from ranks.broker_link import Activity
from ranks.leader import is_preemptible


@pytest.mark.parametrize(
    ("stage", "part", "expected"),
    [
        (Stage.ENCODE, 0.0, True),
        (Stage.DENOISE, 0.0, True),
        (Stage.DENOISE, 0.4, True),
        (Stage.DENOISE, 0.6, False),
        (Stage.DECODE, 0.0, False),
    ],
)
def test_a_step_that_is_more_than_half_done_is_finished_first(
    stage: Stage, part: float, expected: bool
) -> None:
    activity = Activity()
    activity.enter(stage)
    activity.finish_part(part)
    assert is_preemptible(activity) is expected
    activity.finish_item()
    assert is_preemptible(activity) is (stage is not Stage.DECODE)
