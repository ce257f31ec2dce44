"""Compares eight gloo ranks with diffusers' own pipeline in one process."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from torch import Tensor

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec, Solver
from ranks.errors import JobError
from ranks.run import NOT_FINITE
from tests.ranks.rank_group import RankGroup
from tests.ranks.reference import load_reference, reference_frames

TOLERANCE = 1e-4
"""Largest difference of a decoded value, which lies between -1 and 1, in float32."""

PROMPT = "A small  dog&amp;cat walk slowly at sunset."
SMALL = JobSpec(
    prompt=PROMPT,
    negative_prompt="blurred, static",
    image_size="64*64",
    num_frames=25,
    infer_steps=20,
    seed=7,
)


@pytest.fixture(scope="session")
def reference(demo_folder: Path) -> WanImageToVideoPipeline:
    return load_reference(demo_folder)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the group's default: CFG 2 x Ulysses 4"),
        pytest.param({"cfg_size": 1, "ulysses_size": 1}, id="1 x 1, seven replicas"),
        pytest.param({"cfg_size": 1, "ulysses_size": 8}, id="1 x 8"),
        pytest.param({"cfg_size": 2, "ulysses_size": 2}, id="2 x 2, one replica"),
        pytest.param({"guidance_scale": 1.0}, id="no guidance"),
        pytest.param({"guidance_scale": 1.0, "cfg_size": 2}, id="no guidance, CFG 2 nevertheless"),
        pytest.param({"dit_fsdp": True, "t5_fsdp": True}, id="weights sharded between blocks"),
        pytest.param({"vae_parallel": True, "image_size": "96*80"}, id="VAE split"),
        pytest.param({"sample_solver": "dpm++", "num_frames": 24}, id="dpm++, 24 frames"),
        pytest.param({"sample_solver": "euler"}, id="euler"),
        pytest.param(
            {"image_size": "80*112", "sample_shift": 3.0, "ulysses_size": 8},
            id="portrait, 245 tokens over 8 ranks",
        ),
    ],
)
def test_eight_ranks_make_the_frames_of_the_stock_pipeline(
    rank_group: RankGroup, reference: WanImageToVideoPipeline, changes: dict[str, object]
) -> None:
    spec = msgspec.structs.replace(SMALL, **changes)
    expected = reference_frames(reference, spec, rank_group.inputs_dir / "sample.png")
    result = rank_group.run(spec)
    assert result.outcomes == {"done"}
    assert result.frames is not None
    assert result.frames.shape == expected.shape
    assert largest_difference(result.frames, expected) <= TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "something else altogether"},
        {"negative_prompt": "happy"},
        {"guidance_scale": 5.0},
        {"seed": 8},
    ],
    ids=["prompt", "negative prompt", "guidance", "seed"],
)
def test_every_parameter_of_a_job_changes_the_frames(
    rank_group: RankGroup, reference: WanImageToVideoPipeline, changes: dict[str, object]
) -> None:
    """Without this, the comparisons above would prove little."""
    image = rank_group.inputs_dir / "sample.png"
    plain = reference_frames(reference, SMALL, image)
    changed = reference_frames(reference, msgspec.structs.replace(SMALL, **changes), image)
    assert largest_difference(changed, plain) > 50 * TOLERANCE


def test_replicas_that_round_differently_leave_no_seam_in_a_split_video(
    rank_group: RankGroup,
) -> None:
    spec = msgspec.structs.replace(SMALL, cfg_size=1, ulysses_size=1, vae_parallel=True)
    plain, drifted = rank_group.run(spec), rank_group.run(spec, drift_rank=5)
    assert plain.frames is not None
    assert drifted.frames is not None
    assert torch.equal(drifted.frames, plain.frames)


def test_a_cancelled_run_ends_at_the_same_boundary_on_every_rank(rank_group: RankGroup) -> None:
    result = rank_group.run(SMALL, cancel_at_meeting=15)
    assert result.outcomes == {"RunCancelled"}
    assert {report.num_meetings for report in result.reports} == {15}


def test_a_failure_of_one_rank_ends_the_run_on_all_and_the_group_runs_the_next_job(
    rank_group: RankGroup,
) -> None:
    result = rank_group.run(SMALL, fail_rank=5)
    assert {report.outcome for report in result.reports if report.rank != 5} == {"PeerFailed"}
    assert result.reports[5].outcome == "ValueError('failure that the test asked for')"
    assert rank_group.run(SMALL).outcomes == {"done"}


@pytest.mark.parametrize(
    ("place", "rank", "value", "changes"),
    [
        ("denoise", 0, "nan", {}),
        ("denoise", 5, "nan", {}),
        ("denoise", 5, "inf", {"dit_fsdp": True}),
        # The other seven replicas compute finite numbers.
        ("denoise", 5, "nan", {"cfg_size": 1, "ulysses_size": 1}),
        ("decode", 0, "inf", {}),
        ("decode", 5, "nan", {"vae_parallel": True, "image_size": "96*80"}),
    ],
)
def test_nan_or_infinity_on_one_rank_fails_the_job_on_all_and_the_group_runs_the_next(
    rank_group: RankGroup, place: str, rank: int, value: str, changes: dict[str, object]
) -> None:
    spec = msgspec.structs.replace(SMALL, **changes)
    result = rank_group.run(spec, patch=f"tests.ranks.bad_numbers:spoiled:{place}:{rank}:{value}")
    failed = repr(JobError(ErrorCode.NOT_FINITE, NOT_FINITE))
    assert result.reports[rank if place == "denoise" else 0].outcome == failed
    assert result.outcomes <= {failed, "PeerFailed"}
    assert result.frames is None
    assert rank_group.run(spec).outcomes == {"done"}


def test_an_image_that_cannot_be_read_fails_the_job_on_every_rank(rank_group: RankGroup) -> None:
    (rank_group.inputs_dir / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    result = rank_group.run(SMALL, "broken.png")
    assert all(outcome.startswith("JobError") for outcome in result.outcomes)
    assert "submit it again" in result.outcomes.pop()


@pytest.mark.parametrize("solver", get_args(Solver))
def test_a_run_resumed_from_a_checkpoint_makes_identical_frames(
    rank_group: RankGroup, solver: Solver
) -> None:
    spec = msgspec.structs.replace(SMALL, sample_solver=solver)
    whole = rank_group.run(spec, keep_step=13)
    resumed = rank_group.run(spec, is_resumed=True)
    assert whole.frames is not None
    assert resumed.frames is not None
    assert torch.equal(resumed.frames, whole.frames)


def test_an_attention_cache_that_reuses_nothing_changes_no_bit(rank_group: RankGroup) -> None:
    plain = rank_group.run(SMALL)
    cached = rank_group.run(
        msgspec.structs.replace(SMALL, use_attentioncache=True, attentioncache_interval=1)
    )
    assert plain.frames is not None
    assert cached.frames is not None
    assert torch.equal(cached.frames, plain.frames)


def largest_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
