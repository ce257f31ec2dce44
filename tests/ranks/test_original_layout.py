"""The same job has the same result from a folder of diffusers and from the original layout."""

import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from broker.wire.job import JobSpec
from broker.wire.model_profile import Family
from ranks.demo.original_layout import write_original_layout
from ranks.device import open_device
from ranks.model.conditioning import load_models
from ranks.model_files.components import ModelFiles
from ranks.model_files.opened_model import open_model
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.lone_engine import lone_frames
from tests.ranks.rank_group import RankGroup

SPEC = JobSpec(
    prompt="A dog walks.",
    image_size="64*64",
    num_frames=24,
    infer_steps=20,
    guidance_scale=1.0,
    seed=3,
)

FEW_STEPS = msgspec.structs.replace(SPEC, num_frames=5, infer_steps=3, guidance_scale=2.0)


def frames_of(model: Path, folder: Path, world_size: int) -> Tensor:
    folder.mkdir()
    with RankGroup(folder, model, world_size=world_size) as group:
        draw_image(group.inputs_dir / "sample.png")
        result = group.run(msgspec.structs.replace(SPEC, dit_fsdp=True, t5_fsdp=True))
    assert result.outcomes == {"done"}
    assert result.frames is not None
    return result.frames


def copy_processor(model: Path, original: Path) -> None:
    """Let the image encoder see the same of a picture."""
    if (model / "image_processor").exists():
        shutil.copytree(model / "image_processor", original / "image_processor")


@pytest.mark.parametrize("world_size", [1, 2])
def test_both_layouts_of_a_model_give_the_same_bits(
    demo_folder: Path, tmp_path: Path, world_size: int
) -> None:
    """With sharded weights, each rank reads other rows of the same files."""
    original = tmp_path / "Wan2___1-I2V-14B-720P"
    write_original_layout(demo_folder, original, num_shards=3 - world_size)
    copy_processor(demo_folder, original)
    link = tmp_path / "link"
    link.symlink_to(original)
    expected = frames_of(demo_folder, tmp_path / "diffusers", world_size)
    assert torch.equal(frames_of(link, tmp_path / "original", world_size), expected)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param("wan2.1-flf2v", marks=pytest.mark.full),
        pytest.param("wan2.2-i2v-a14b", marks=pytest.mark.full),
        "wan2.2-ti2v-5b",
    ],
)
def test_a_job_of_any_family_has_the_same_bits_from_both_layouts(
    family: Family, demo_folders: DemoFolders, tmp_path: Path
) -> None:
    """The original files state neither A14B's boundary nor the statistics of the latents."""
    image = tmp_path / "sample.png"
    draw_image(image)
    last = image if family == "wan2.1-flf2v" else None
    write_original_layout(demo_folders(family), tmp_path / "original")
    copy_processor(demo_folders(family), tmp_path / "original")
    expected, found = (
        lone_frames(model, tmp_path / name, FEW_STEPS, image, last)
        for name, model in (("a", demo_folders(family)), ("b", tmp_path / "original"))
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", ["wan2.1-flf2v", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"])
def test_every_weight_of_a_family_is_the_same_in_both_layouts(
    family: Family, demo_folders: DemoFolders, tmp_path: Path
) -> None:
    folder = demo_folders(family)
    write_original_layout(folder, tmp_path / "original")
    expected, found = open_model(folder), open_model(tmp_path / "original")
    assert (found.family, found.boundary_ratio) == (family, expected.boundary_ratio)
    assert found.components.keys() == expected.components.keys()
    pairs = zip(modules(found), modules(expected), strict=True)
    for ours, theirs in ((ours.state_dict(), theirs.state_dict()) for ours, theirs in pairs):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def modules(files: ModelFiles) -> list[nn.Module]:
    models = load_models(files, open_device("cpu", 0, 1), mesh=None)
    encoders = (models.text_encoder, models.image_encoder)
    return [part for part in (*encoders, *models.transformers, models.vae) if part is not None]
