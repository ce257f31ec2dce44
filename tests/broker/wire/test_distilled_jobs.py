"""What a job may ask of a distilled model, and which ranks work on it."""

import pytest

from broker.wire.group_shape import GroupShape, choose_layout
from broker.wire.job import JobSpec, SpecError
from broker.wire.model_profile import ModelProfile
from broker.wire.spec_check import CACHE_FIELDS, check_spec

FAST = ModelProfile(
    name="fast", is_distilled=True, min_steps=1, max_steps=8, max_guidance_scale=1.0
)


def spec_of(**changes: object) -> JobSpec:
    fields = {"prompt": "A boat drifts", "infer_steps": 4, "guidance_scale": 1.0} | changes
    return JobSpec(**fields)  # type: ignore[arg-type]


def test_all_ranks_share_the_sequence_because_there_is_one_branch() -> None:
    assert choose_layout(spec_of(), GroupShape(world_size=8, num_heads=40, model=FAST)) == (1, 8)


@pytest.mark.parametrize("field", ["guidance_scale", "guidance_scale_2"])
def test_guidance_is_refused_with_the_reason(field: str) -> None:
    with pytest.raises(SpecError, match=f"{field} is 3.0; fast is distilled and works without"):
        check_spec(spec_of(**{field: 3.0}), FAST)
    check_spec(spec_of(**{field: 1.0}), FAST)


@pytest.mark.parametrize("field", CACHE_FIELDS)
def test_each_cache_is_refused_by_name(field: str) -> None:
    with pytest.raises(SpecError, match=f"{field} is on; fast is distilled") as refused:
        check_spec(spec_of(**{field: True}), FAST)
    assert refused.value.field == field


def test_it_takes_one_to_eight_steps() -> None:
    check_spec(spec_of(infer_steps=1), FAST)
    check_spec(spec_of(infer_steps=8), FAST)
    with pytest.raises(SpecError, match="infer_steps is 9; it must be from 1 to 8"):
        check_spec(spec_of(infer_steps=9), FAST)
