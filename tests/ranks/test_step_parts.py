"""Boundaries of the encoding and within a step, and the steps of distilled models, on two ranks."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.demo.original_layout import original_tensors
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.lone_engine import lone_frames
from tests.ranks.rank_group import RankGroup, Result
from tests.ranks.reference import load_reference, reference_frames

TOLERANCE = 1e-4
"""Largest difference of a decoded value, which lies between -1 and 1, in float32."""
DISTILLED = JobSpec(
    prompt="A small dog and a cat walk slowly at sunset.",
    image_size="80*112",
    num_frames=24,
    infer_steps=4,
    guidance_scale=1.0,
    sample_solver="euler",
    seed=5,
)
NUM_BLOCKS = 2
"""Of the demo's transformer."""


@pytest.fixture(scope="module")
def pair(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    with RankGroup(tmp_path_factory.mktemp("pair"), demo_folder, world_size=2) as group:
        draw_image(group.inputs_dir / "sample.png")
        yield group


def done(result: Result) -> Tensor:
    assert result.outcomes == {"done"}
    assert result.frames is not None
    return result.frames


def test_a_job_cancelled_within_a_step_ends_there_on_every_rank_and_leaves_nothing_behind(
    pair: RankGroup,
) -> None:
    """A step may take longer than the 30 s after which a cancelled group is killed."""
    spec = msgspec.structs.replace(DISTILLED, dit_fsdp=True, image_size="128*128")
    result = pair.run(spec, num_parts=8, cancel_at_part=1)
    assert result.outcomes == {"RunCancelled"}
    num_encoded = 2 + 7  # prompts, image, and the chunks of 25 frames
    for report in result.reports:
        assert (report.num_parts, report.num_meetings) == (1, num_encoded)
        assert report.is_tidy


ENCODED = msgspec.structs.replace(DISTILLED, guidance_scale=4.0, image_size="96*64")


@pytest.mark.parametrize("is_split", [False, True], ids=["VAE on rank 0", "VAE split"])
@pytest.mark.parametrize("boundary", [1, 2, 3, 5])
def test_a_job_cancelled_while_encoding_ends_at_that_boundary_on_every_rank(
    pair: RankGroup, boundary: int, is_split: bool
) -> None:
    """After the prompt, the negative prompt, the image encoder, and a chunk of the VAE."""
    spec = msgspec.structs.replace(ENCODED, vae_parallel=is_split)
    result = pair.run(spec, cancel_at_meeting=boundary)
    assert result.outcomes == {"RunCancelled"}
    assert {report.num_meetings for report in result.reports} == {boundary}
    assert all(report.is_tidy for report in result.reports)


def test_a_job_after_one_that_was_cancelled_while_encoding_makes_the_same_video(
    pair: RankGroup,
) -> None:
    spec = msgspec.structs.replace(ENCODED, vae_parallel=True)
    before = done(pair.run(spec))
    cancelled = msgspec.structs.replace(spec, image_size="64*96")
    assert pair.run(cancelled, cancel_at_meeting=5).outcomes == {"RunCancelled"}
    assert torch.equal(done(pair.run(spec)), before)


def test_boundaries_change_no_bit_and_ranks_may_propose_different_numbers(
    pair: RankGroup,
) -> None:
    spec = msgspec.structs.replace(DISTILLED, guidance_scale=4.0, cfg_size=1, dit_fsdp=True)
    whole, divided = pair.run(spec, num_parts=1), pair.run(spec, num_parts=100)
    assert torch.equal(done(divided), done(whole))
    assert {report.num_parts for report in whole.reports} == {0}
    num_parts = spec.infer_steps * (NUM_BLOCKS - 1)
    assert {report.num_parts for report in divided.reports} == {num_parts}


def test_four_steps_make_the_frames_of_the_stock_pipeline(
    pair: RankGroup, demo_folder: Path
) -> None:
    expected = reference_frames(
        load_reference(demo_folder), DISTILLED, pair.inputs_dir / "sample.png"
    )
    found = done(pair.run(DISTILLED, num_parts=2))
    assert float((found - expected).abs().max()) <= TOLERANCE


def test_a_pair_of_files_makes_the_frames_of_the_stock_pipeline_with_two_transformers(
    demo_folders: DemoFolders, tmp_path: Path
) -> None:
    model = demo_folders("wan2.2-i2v-a14b")
    files = [tmp_path / "high_noise.safetensors", tmp_path / "low_noise.safetensors"]
    for file, part in zip(files, ("transformer", "transformer_2"), strict=True):
        tensors = load_file(model / part / "diffusion_pytorch_model.safetensors")
        save_file(original_tensors("transformer", {}, tensors), file)
    image = tmp_path / "sample.png"
    draw_image(image)
    found = lone_frames(model, tmp_path / "rank", DISTILLED, image, transformers=files)
    expected = reference_frames(load_reference(model), DISTILLED, image)
    assert float((found - expected).abs().max()) <= TOLERANCE
