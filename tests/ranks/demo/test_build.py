"""The demo model."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from broker.wire.job import JobSpec
from broker.wire.model_profile import Family
from ranks.demo.build import main, make_demo_model
from ranks.model.conditioning import image_tensor, open_image
from ranks.model_files.diffusers_folder import check_model_folder, num_attention_heads
from ranks.model_files.opened_model import open_model
from tests.ranks.conftest import DemoFolders
from tests.ranks.reference import load_reference, reference_frames

PICTURE = Path(__file__).parents[3] / "docs" / "sample.jpg"


def test_the_folder_has_the_layout_of_the_real_one(demo_folder: Path) -> None:
    check_model_folder(demo_folder)
    assert num_attention_heads(demo_folder) == 8
    index = json.loads((demo_folder / "model_index.json").read_text())
    assert index["_class_name"] == "WanImageToVideoPipeline"
    assert index["transformer"] == ["diffusers", "WanTransformer3DModel"]


def test_two_builds_make_identical_files(demo_folder: Path, tmp_path: Path) -> None:
    """Also in another process, whose string hashes differ."""
    subprocess.run([sys.executable, "-m", "ranks.demo.build", tmp_path / "again"], check=True)
    paths = [path.relative_to(demo_folder) for path in demo_folder.rglob("*") if path.is_file()]
    assert len(paths) > 10
    for path in paths:
        assert (tmp_path / "again" / path).read_bytes() == (demo_folder / path).read_bytes(), path


def test_no_temporary_files_are_left(tmp_path: Path) -> None:
    make_demo_model(tmp_path / "demo")
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_command_builds_a_family_in_the_original_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    monkeypatch.setattr(sys, "argv", ["build", str(folder), "wan2.2-ti2v-5b:original"])
    main()
    files = open_model(folder)
    assert (files.family, files.layout) == ("wan2.2-ti2v-5b", "original")
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]
    built_ns = folder.stat().st_mtime_ns
    main()
    assert folder.stat().st_mtime_ns == built_ns  # what is there is not built again


@pytest.mark.parametrize("family", ["wan2.1-i2v", "wan2.2-ti2v-5b"])
def test_the_video_shows_the_picture_and_moves(demo_folders: DemoFolders, family: Family) -> None:
    spec = JobSpec(
        prompt="A small boat at sunset.",
        image_size="128*128",
        num_frames=25,
        infer_steps=20,
        guidance_scale=1.0,
        seed=7,
    )
    frames = reference_frames(load_reference(demo_folders(family)), spec, PICTURE)[0].unbind(1)
    picture = image_tensor(open_image(PICTURE, spec.width_px, spec.height_px))[0]
    for frame in frames:
        assert torch.corrcoef(torch.stack((frame, picture)).flatten(1))[0, 1] > 0.75
    changes = [float((later - frame).abs().mean()) for frame, later in pairwise(frames)]
    assert all(0.001 < change < 0.06 for change in changes)
    assert (frames[12] - frames[0]).abs().mean() > 0.05
