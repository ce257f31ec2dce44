"""MP4 files and stills, checked by decoding them."""

import json
import os
import queue
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from broker.store.folder import FolderStore
from broker.store.store import PARTIAL, VIDEOS
from broker.wire.errors import ResultWarning
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from ranks.errors import JobError, RunCancelled
from ranks.media.stills import Stills
from ranks.media.video_writer import VideoWriter

LEASE = Lease(group="group-0", epoch=1, job_id="0" * 32, attempt=1)
SPEC = JobSpec(prompt='A "quoted" prompt; 提示 = \\ #1', image_size="80*64", num_frames=24, seed=5)
COLOURS = ((200, 40, 40), (40, 160, 60), (30, 60, 210), (128, 128, 128))
_LIMIT_S = 30.0

Ends = queue.SimpleQueue[Exception | None]


def stripes(num_frames: int) -> torch.Tensor:
    """Return frames from -1 to 1 with vertical stripes of known colours."""
    columns = torch.tensor(COLOURS).T.repeat_interleave(80 // len(COLOURS), dim=1)
    pixels = columns[:, None, None, :].expand(3, num_frames, 64, 80)
    return pixels.unsqueeze(0) / 127.5 - 1.0


def write(
    folder: Path, num_frames: int = 25, is_cancelled: bool = False
) -> tuple[VideoWriter, Ends]:
    """Return a writer with frames added, by default one more than the video has."""
    store = FolderStore(folder)
    ends: Ends = queue.SimpleQueue()
    writer = VideoWriter(
        LEASE,
        SPEC,
        ModelProfile(),
        folder / "no image",
        store,
        lambda: is_cancelled,
        lambda _: None,
        lambda failure, _: ends.put(failure),
    )
    for frames in stripes(num_frames).split(4, dim=2):
        writer.add(frames)
    return writer, ends


def ffmpeg(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=_LIMIT_S)


def metadata_of(video: Path) -> dict[str, Any]:
    metadata = ffmpeg("-i", str(video), "-f", "ffmetadata", "-").stdout.decode()
    found = re.search(r"^comment=(.*)$", metadata, re.MULTILINE)
    assert found is not None
    settings: dict[str, Any] = json.loads(re.sub(r"\\([=;#\\])", r"\1", found[1]))
    return settings


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    writer, ends = write(folder)
    writer.finish()
    assert ends.get(timeout=_LIMIT_S) is None
    return folder / VIDEOS / f"{LEASE.job_id}.mp4"


def test_the_video_has_exactly_the_requested_frames_and_size(video: Path) -> None:
    decoded = ffmpeg("-i", str(video), "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    assert len(decoded) == 24 * 64 * 80 * 3


def test_the_video_is_tagged_with_its_colour_matrix(video: Path) -> None:
    stream = next(line for line in described(video) if "Video:" in line)
    assert "h264" in stream
    assert "yuv420p(tv, bt709, progressive)" in stream
    assert "16 fps" in stream
    assert "80x64" in stream


def test_decoding_with_the_tagged_matrix_restores_the_colours(video: Path) -> None:
    decode = "scale=in_color_matrix=bt709:in_range=tv"
    decoded = ffmpeg("-i", str(video), "-vf", decode, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    frames = np.frombuffer(decoded.stdout, np.uint8).reshape(24, 64, 4, 20, 3)
    centres = frames[:, 16:48, :, 8:12].mean(axis=(0, 1, 3))
    np.testing.assert_allclose(centres, COLOURS, atol=3)


def test_the_video_can_be_played_while_it_is_downloaded(video: Path) -> None:
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_metadata_contains_prompt_seed_and_parameters(video: Path) -> None:
    comment = metadata_of(video)
    assert comment["prompt"] == SPEC.prompt
    assert comment["seed"] == 5
    assert comment["infer_steps"] == 30
    assert comment["model"] == ModelProfile().name


ENCODE = """
import sys
from pathlib import Path
from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from ranks.media.mp4 import write_mp4
spec = JobSpec(prompt=sys.argv[2], image_size="80*64", num_frames=24)
write_mp4(spec, ModelProfile(), Path(sys.argv[1]), [bytes(80 * 64 * 3)] * 25)
"""


def test_a_chinese_prompt_is_saved_in_a_locale_without_it(tmp_path: Path) -> None:
    """Its job would fail after all steps."""
    video = tmp_path / "video.mp4"
    command = [sys.executable, "-c", ENCODE.replace("sys.argv[2]", ascii(SPEC.prompt)), str(video)]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(command, env=os.environ | locale, check=True, timeout=_LIMIT_S)
    assert metadata_of(video)["prompt"] == SPEC.prompt


def test_no_partial_files_are_left(video: Path) -> None:
    found = sorted(path.name for path in video.parent.rglob("*") if path.is_file())
    assert found == sorted(video.stem + end for end in (".mp4", ".webp", ".sprites.webp"))


def test_the_poster_has_the_colours_of_the_video(video: Path) -> None:
    with Image.open(video.with_suffix(".webp")) as poster:
        assert poster.size == (80, 64)
        found = [poster.convert("RGB").getpixel((10 + 20 * n, 32)) for n in range(4)]
    np.testing.assert_allclose(np.array(found), COLOURS, atol=8)


def test_the_sprite_sheet_covers_the_whole_video(tmp_path: Path) -> None:
    spec = JobSpec(prompt="from black to white", image_size="1280*720", num_frames=37)
    stills = Stills(spec)
    for index in range(37):
        stills.add(bytes([index * 7]) * (1280 * 720 * 3))
    stills.save(tmp_path / "a.webp", tmp_path / "a.sprites.webp")
    with Image.open(tmp_path / "a.sprites.webp") as sheet:
        assert sheet.size == (5 * 192, 2 * 108)
        positions = [(96 + column * 192, 54 + row * 108) for row in range(2) for column in range(5)]
        found = [sheet.convert("L").getpixel(position) for position in positions]
    np.testing.assert_allclose(np.array(found), [index * 4 * 7 for index in range(10)], atol=6)
    with Image.open(tmp_path / "a.webp") as poster:
        assert poster.size == (640, 360)
        np.testing.assert_allclose(np.array(poster.convert("L")), 18 * 7, atol=6)


def test_a_cancelled_video_leaves_no_file(tmp_path: Path) -> None:
    writer, ends = write(tmp_path, is_cancelled=True)
    writer.finish()
    assert isinstance(ends.get(timeout=_LIMIT_S), RunCancelled)
    assert not list(tmp_path.rglob("*.mp4"))


def test_an_abandoned_video_leaves_no_file_and_reports_nothing(tmp_path: Path) -> None:
    writer, ends = write(tmp_path)
    writer.abandon()
    writer.wait(_LIMIT_S)
    assert not writer.is_writing
    assert ends.empty()
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_folder_that_cannot_be_written_fails_the_video(tmp_path: Path) -> None:
    (tmp_path / VIDEOS).mkdir()
    (tmp_path / PARTIAL).write_text("a file where a folder should be")
    writer, ends = write(tmp_path, num_frames=1)
    writer.finish()
    failure = ends.get(timeout=_LIMIT_S)
    assert isinstance(failure, FileExistsError)
    with pytest.raises(JobError, match="could not be saved"):
        writer.add(stripes(1))


def test_a_failure_of_the_encoder_is_reported(tmp_path: Path) -> None:
    (tmp_path / PARTIAL / f"{'0' * 32}.1.mp4").mkdir(parents=True)
    writer, ends = write(tmp_path, num_frames=1)
    writer.finish()
    assert "ffmpeg ended with" in str(ends.get(timeout=_LIMIT_S))


def test_a_video_with_too_few_frames_fails_and_is_not_stored(tmp_path: Path) -> None:
    writer, ends = write(tmp_path, num_frames=20)
    writer.finish()
    assert "has 20 frames; expected 24" in str(ends.get(timeout=_LIMIT_S))
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("image", "frames", "expected"),
    [
        ("stripes", torch.full((1, 3, 24, 64, 80), -1.0), ResultWarning.SINGLE_COLOUR),
        ("stripes", stripes(24), None),
        ("black", torch.full((1, 3, 24, 64, 80), -1.0), None),
    ],
    ids=["black from stripes", "stripes from stripes", "black from black"],
)
def test_a_black_video_of_an_image_that_is_not_has_a_warning(
    tmp_path: Path, image: str, frames: torch.Tensor, expected: ResultWarning | None
) -> None:
    pixels = np.zeros((64, 80, 3), np.uint8)
    pixels[:] = np.repeat(COLOURS, 20, axis=0) if image == "stripes" else 0
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    found: queue.SimpleQueue[tuple[Exception | None, ResultWarning | None]] = queue.SimpleQueue()
    writer = VideoWriter(
        LEASE,
        SPEC,
        ModelProfile(),
        path,
        FolderStore(tmp_path),
        lambda: False,
        lambda _: None,
        lambda failure, warning: found.put((failure, warning)),
    )
    writer.add(frames)
    path.unlink()
    writer.finish()
    assert found.get(timeout=_LIMIT_S) == (None, expected)


def described(video: Path) -> list[str]:
    return ffmpeg("-i", str(video)).stderr.decode().splitlines()
