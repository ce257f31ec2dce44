"""What tests of the ranks share: the demo checkpoint, a sample image, a group of real ranks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ranks.demo.build import make_demo_model
from tests.ranks.rank_group import RankGroup


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint, made once."""
    folder = tmp_path_factory.mktemp("model") / "demo"
    make_demo_model(folder)
    return folder


@pytest.fixture(scope="session")
def rank_group(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Iterator[RankGroup]:
    """Eight ranks that have loaded the demo checkpoint; an image `sample.png` is in its inputs."""
    with RankGroup(tmp_path_factory.mktemp("group"), demo_folder, world_size=8) as group:
        draw_image(group.inputs_dir / "sample.png")
        yield group


def draw_image(path: Path) -> None:
    """Draw colours that differ at every place, wider than high."""
    gradient = Image.linear_gradient("L")
    bands = (gradient, gradient.rotate(90), Image.radial_gradient("L"))
    Image.merge("RGB", bands).resize((160, 112)).save(path)
