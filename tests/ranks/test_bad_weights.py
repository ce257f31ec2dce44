"""A group whose model computes NaN: each job fails, once and with its code, and the group lives."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch

from broker.wire.errors import ErrorCode
from broker.wire.group_reports import JobFailed
from ranks.run import NOT_FINITE
from tests.ranks.conftest import draw_image
from tests.ranks.group_life import running_group
from tests.ranks.test_serve import WORLD_SIZE, new_job


@pytest.fixture
def damaged_model(tmp_path: Path, demo_folder: Path) -> Path:
    """A model with one bad number in its transformer."""
    folder = tmp_path / "model"
    shutil.copytree(demo_folder, folder)
    (path,) = (folder / "transformer").glob("*.safetensors")
    weights = safetensors.torch.load_file(path)
    weights["proj_out.weight"].view(-1)[3] = float("nan")
    safetensors.torch.save_file(weights, path)
    return folder


def test_a_bad_weight_fails_every_job_and_leaves_no_checkpoint(
    tmp_path: Path, damaged_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inputs").mkdir()
    draw_image(tmp_path / "inputs" / "sample.png")
    with running_group(tmp_path, damaged_model, 1, WORLD_SIZE) as group:
        for job in (new_job(), new_job()):
            group.send(job)
            failed = group.expect(JobFailed, job.lease)
            assert (failed.code, failed.reason) == (ErrorCode.NOT_FINITE, NOT_FINITE)
        assert group.stop() == [0] * WORLD_SIZE
    assert "the latents after step 1 hold NaN or infinity" in capfd.readouterr().err
    left = [path for name in ("checkpoints", "videos") for path in (tmp_path / name).rglob("*")]
    assert [path for path in left if path.is_file()] == []
