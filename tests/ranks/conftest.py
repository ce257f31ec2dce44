"""Fixtures for tests of the ranks: the demo model, a sample image, a group of real ranks."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from broker.wire.model_profile import Family
from ranks.demo.build import make_demo_model
from tests.ranks.rank_group import RankGroup

DemoFolders = Callable[[Family], Path]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "demo"
    make_demo_model(folder)
    return folder


@pytest.fixture(scope="session")
def demo_folders(demo_folder: Path) -> DemoFolders:
    """Return the demo model of a family; each is made once."""

    @cache
    def make(family: Family) -> Path:
        if family == "wan2.1-i2v":
            return demo_folder
        folder = demo_folder.with_name(family)
        make_demo_model(folder, family)
        return folder

    return make


@pytest.fixture(scope="session")
def rank_group(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Iterator[RankGroup]:
    """Eight ranks that have loaded the demo model, with an image `sample.png` in their inputs."""
    with RankGroup(tmp_path_factory.mktemp("group"), demo_folder, world_size=8) as group:
        draw_image(group.inputs_dir / "sample.png")
        yield group


def draw_image(path: Path) -> None:
    """Draw a landscape image whose colours differ at every position."""
    gradient = Image.linear_gradient("L")
    bands = (gradient, gradient.rotate(90), Image.radial_gradient("L"))
    Image.merge("RGB", bands).resize((160, 112)).save(path)
