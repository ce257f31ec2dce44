"""The same job has the same result from a folder of diffusers and from the original layout."""

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.demo.original_layout import write_original_layout
from tests.ranks.conftest import draw_image
from tests.ranks.rank_group import RankGroup

SPEC = JobSpec(
    prompt="A dog walks.",
    image_size="64*64",
    num_frames=24,
    infer_steps=20,
    guidance_scale=1.0,
    seed=3,
)


def frames_of(model: Path, folder: Path, world_size: int) -> Tensor:
    folder.mkdir()
    with RankGroup(folder, model, world_size=world_size) as group:
        draw_image(group.inputs_dir / "sample.png")
        result = group.run(msgspec.structs.replace(SPEC, dit_fsdp=True, t5_fsdp=True))
    assert result.outcomes == {"done"}
    assert result.frames is not None
    return result.frames


@pytest.mark.parametrize("world_size", [1, 2])
def test_both_layouts_of_a_model_give_the_same_bits(
    demo_folder: Path, tmp_path: Path, world_size: int
) -> None:
    """With sharded weights, each rank reads other rows of the same files."""
    original = tmp_path / "Wan2___1-I2V-14B-720P"
    write_original_layout(demo_folder, original, num_shards=3 - world_size)
    link = tmp_path / "link"
    link.symlink_to(original)
    expected = frames_of(demo_folder, tmp_path / "diffusers", world_size)
    assert torch.equal(frames_of(link, tmp_path / "original", world_size), expected)
