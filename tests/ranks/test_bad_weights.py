"""Groups whose model has bad weights: a wrong video is no success, and the group lives."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch

from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.group_reports import JobFailed, JobFinished
from ranks.run import NOT_FINITE
from tests.ranks.conftest import draw_image
from tests.ranks.group_life import running_group
from tests.ranks.test_serve import WORLD_SIZE, new_job


def change_weight(demo_folder: Path, folder: Path, part: str, name: str, value: float) -> Path:
    """Make a model in which one tensor has this value everywhere."""
    shutil.copytree(demo_folder, folder)
    (path,) = (folder / part).glob("*.safetensors")
    weights = safetensors.torch.load_file(path)
    weights[name].fill_(value)
    safetensors.torch.save_file(weights, path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "group"
    (folder / "inputs").mkdir(parents=True)
    draw_image(folder / "inputs" / "sample.png")
    return folder


def test_nan_fails_every_job_once_and_leaves_no_checkpoint(
    folder: Path, tmp_path: Path, demo_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    model = change_weight(demo_folder, tmp_path / "model", "transformer", "proj_out.bias", nan)
    with running_group(folder, model, 1, WORLD_SIZE) as group:
        for job in (new_job(), new_job()):
            group.send(job)
            failed = group.expect(JobFailed, job.lease)
            assert (failed.code, failed.reason) == (ErrorCode.NOT_FINITE, NOT_FINITE)
        assert group.stop() == [0] * WORLD_SIZE
    assert "the latents after step 1 hold NaN or infinity" in capfd.readouterr().err
    left = [path for name in ("checkpoints", "videos") for path in (folder / name).rglob("*")]
    assert [path for path in left if path.is_file()] == []


def test_a_video_of_a_single_colour_is_reported_with_a_warning(
    folder: Path, tmp_path: Path, demo_folder: Path
) -> None:
    name = "decoder.conv_out.weight"
    model = change_weight(demo_folder, tmp_path / "model", "vae", name, 0.0)
    with running_group(folder, model, 1, WORLD_SIZE) as group:
        job = new_job()
        group.send(job)
        finished = group.expect(JobFinished, job.lease)
        assert finished.warning is ResultWarning.SINGLE_COLOUR
        assert group.stop() == [0] * WORLD_SIZE
