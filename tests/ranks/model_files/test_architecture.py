"""The shapes that a start checks are those of the models that ranks load."""

import math
from typing import Any

import pytest

from ranks.model_files.architecture import shapes_of
from ranks.model_files.components import ComponentName
from tests.ranks.model_files.real_shapes import CONFIGS, make_on_meta


@pytest.mark.parametrize(("component", "config", "num_parameters"), CONFIGS.values(), ids=CONFIGS)
def test_each_config_describes_the_weights_that_the_library_makes(
    component: ComponentName, config: dict[str, Any], num_parameters: int
) -> None:
    model = make_on_meta(component, config)
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    shapes = shapes_of(component, config)
    assert shapes == expected
    if num_parameters:
        assert sum(map(math.prod, shapes.values())) == num_parameters
