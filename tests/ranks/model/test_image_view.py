"""What the image encoder sees of a wide picture, in both layouts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ranks.demo.original_layout import write_original_layout
from ranks.errors import ModelFolderError
from ranks.model.image_view import SqueezedImages, load_image_processor
from ranks.model_files.components import ModelFiles
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import content_hash, profile_of
from tests.stub_model import set_fields

SIDE = 8
CUBIC = -0.75
"""The parameter of torch's bicubic kernel."""


@pytest.fixture
def original(demo_folder: Path, tmp_path: Path) -> Path:
    write_original_layout(demo_folder, tmp_path / "original")
    return tmp_path / "original"


def wide_picture(*, has_dark_ends: bool = False) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (72, 128, 3), dtype=np.uint8)
    if has_dark_ends:
        pixels[:, :12] = pixels[:, -12:] = 0
    return Image.fromarray(pixels)


def taps(length: int) -> NDArray[np.float64]:
    """Return what each of `SIDE` samples takes of a line: bicubic, without anti-aliasing."""
    matrix = np.zeros((SIDE, length))
    for row in range(SIDE):
        centre = (row + 0.5) * length / SIDE - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            near = abs(centre - tap)
            inner = (CUBIC + 2) * near**3 - (CUBIC + 3) * near**2 + 1
            outer = CUBIC * (near**3 - 5 * near**2 + 8 * near - 4)
            matrix[row, min(max(tap, 0), length - 1)] += inner if near <= 1 else outer
    return matrix


def test_the_whole_picture_is_squeezed_as_the_makers_do() -> None:
    picture = wide_picture()
    pixels = np.asarray(picture) / 255.0
    squeezed = np.einsum("ih,hwc,jw->cij", taps(72), pixels, taps(128))
    mean, std = (np.array(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    (found,) = SqueezedImages(SIDE)([picture]).numpy()
    np.testing.assert_allclose(found, (squeezed - mean) / std, atol=1e-5)


def sees_the_ends(files: ModelFiles) -> bool:
    processor = load_image_processor(files)
    assert processor is not None
    first, second = processor([wide_picture(), wide_picture(has_dark_ends=True)])
    return not torch.equal(first, second)


def test_an_original_folder_shows_the_whole_picture_and_one_of_diffusers_what_it_states(
    demo_folder: Path, original: Path
) -> None:
    diffusers = open_model(demo_folder)
    assert (diffusers.image_view, sees_the_ends(diffusers)) == ("folder", False)
    files = open_model(original)
    assert (files.image_view, sees_the_ends(files)) == ("official", True)
    assert profile_of(files, "m").image_view == "official"
    # Else a job of one could go on with the other, and groups of both would be called the same.
    assert content_hash(files) != content_hash(diffusers)


def test_an_original_folder_may_state_how_its_pictures_are_prepared(
    demo_folder: Path, original: Path
) -> None:
    (original / "image_processor").symlink_to(demo_folder / "image_processor")
    files = open_model(original)
    assert (files.image_view, sees_the_ends(files)) == ("folder", False)
    assert content_hash(files) == content_hash(open_model(demo_folder))


def test_a_processor_of_another_encoder_is_refused_in_an_original_folder(original: Path) -> None:
    config = original / "image_processor" / "preprocessor_config.json"
    config.parent.mkdir()
    config.write_text("{}")
    set_fields(config, crop_size=336)
    with pytest.raises(ModelFolderError, match="crop_size is 336; the image encoder expects"):
        open_model(original)
