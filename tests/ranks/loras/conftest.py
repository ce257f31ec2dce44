"""Fixtures: the demo transformer, its stored weights, and a second family with two of them."""

from pathlib import Path

import pytest
from torch import Tensor

from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.opened_model import open_model
from tests.ranks.loras.lora_forms import stored_weights


@pytest.fixture(scope="session")
def model(demo_folder: Path) -> ModelFiles:
    return open_model(demo_folder)


@pytest.fixture(scope="session")
def transformer(model: ModelFiles) -> Component:
    return model.components["transformer"]


@pytest.fixture(scope="session")
def weights(transformer: Component) -> dict[str, Tensor]:
    return stored_weights(transformer)
