"""Finished videos that are not what was asked for."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from ranks.errors import RunCancelled
from ranks.media.mp4 import write_mp4
from ranks.media.video_check import DamagedVideoError, check_mp4, is_plain_picture

SPEC = JobSpec(prompt="snow on a screen", image_size="80*64", num_frames=24)
NOISE = np.random.default_rng(1).integers(0, 256, (24, 64, 80, 3), np.uint8)


def written(
    path: Path,
    frames: np.ndarray = NOISE,
    spec: JobSpec = SPEC,
    frames_per_second: int = 16,
) -> Path:
    model = ModelProfile(frames_per_second=frames_per_second)
    write_mp4(spec, model, path, [frames.tobytes()])
    return path


def check(spec: JobSpec, path: Path) -> bool:
    return check_mp4(spec, 16, path, lambda: None)


def test_a_video_as_asked_for_passes(tmp_path: Path) -> None:
    assert not check(SPEC, written(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 25}, "has 24 frames; expected 25"),
        ({"image_size": "64*80"}, "W80 H64 .*; expected H80, W64"),
        ({"image_size": "96*64"}, "expected W96"),
    ],
)
def test_another_length_or_size_is_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = written(tmp_path / "a.mp4")
    with pytest.raises(DamagedVideoError, match=message):
        check(msgspec.structs.replace(SPEC, **changes), path)


def test_a_video_has_the_frame_rate_of_its_model_and_another_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", frames_per_second=24)
    assert not check_mp4(SPEC, 24, path, lambda: None)
    with pytest.raises(DamagedVideoError, match=r"F24:1 .*; expected F16:1"):
        check(SPEC, path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.97])
def test_a_truncated_video_is_damaged(tmp_path: Path, kept: float) -> None:
    path = written(tmp_path / "a.mp4")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DamagedVideoError):
        check(SPEC, path)


def test_a_video_with_overwritten_bytes_is_damaged(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(DamagedVideoError):
        check(SPEC, path)


def test_a_cancel_ends_the_check(tmp_path: Path) -> None:
    def cancel() -> None:
        raise RunCancelled

    with pytest.raises(RunCancelled):
        check_mp4(SPEC, 16, written(tmp_path / "a.mp4"), cancel)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 60)])
@pytest.mark.parametrize(("num_first", "is_plain"), [(0, True), (5, True), (20, False)])
def test_a_video_is_plain_if_most_frames_have_a_single_colour(
    tmp_path: Path, colour: tuple[int, int, int], num_first: int, is_plain: bool
) -> None:
    frames = NOISE.copy()
    frames[num_first:] = colour
    assert check(SPEC, written(tmp_path / "a.mp4", frames)) is is_plain


def test_frames_of_one_brightness_but_several_colours_are_not_plain(tmp_path: Path) -> None:
    frames = NOISE.copy()
    frames[:, :, :40], frames[:, :, 40:] = (200, 40, 40), (40, 88, 40)
    assert not check(SPEC, written(tmp_path / "a.mp4", frames))


def test_a_picture_is_plain_if_it_has_a_single_colour(tmp_path: Path) -> None:
    for name, pixels in (("noise", NOISE[0]), ("grey", np.full((64, 80, 3), 90, np.uint8))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.ppm")
    assert not is_plain_picture(tmp_path / "noise.ppm")
    assert is_plain_picture(tmp_path / "grey.ppm")
    assert is_plain_picture(tmp_path / "missing.ppm")
