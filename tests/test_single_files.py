"""A server whose transformers come from single files, and the folder that they were taken from."""

import asyncio
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from safetensors.torch import load_file, save_file

from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from ranks.demo.build import make_demo_model
from ranks.demo.original_layout import original_tensors
from ranks.media.mp4 import write_mp4
from tests.ranks.lone_engine import lone_frames
from tests.running_server import SAMPLE, SMALL_JOB, calling, running_server

SPEC = JobSpec(
    prompt=SMALL_JOB["prompt"],
    image_size="64*64",
    num_frames=24,
    infer_steps=20,
    guidance_scale=2.0,
    seed=7,
)
COMMAND = ("launch.py", "--device", "cpu", "--port", "0", "--nproc", "1")


@pytest.mark.full
async def test_its_video_is_that_of_the_folder(tmp_path: Path) -> None:
    """The pair of A14B, beside a folder that has no transformer any more."""
    folder, files = tmp_path / "model", []
    make_demo_model(folder, "wan2.2-i2v-a14b")
    expected = video_of(folder, tmp_path)
    for part in ("transformer", "transformer_2"):
        (weights,) = (folder / part).glob("*.safetensors")
        files.append(str(tmp_path / f"{part}.safetensors"))
        named = original_tensors("transformer", {}, load_file(weights))
        save_file({f"model.diffusion_model.{name}": named[name] for name in named}, files[-1])
        weights.unlink()
    flags = ("--model-path", str(folder), "--transformer", ",".join(files))
    async with (
        running_server(tmp_path / "state", *flags, command=COMMAND) as server,
        calling(server) as caller,
    ):
        job_id = await caller.submit(image_size="64*64", guidance_scale="2")
        await caller.wait_for(job_id, status="Succeed")
    found = tmp_path / "state" / "videos" / f"{job_id}.mp4"
    assert await asyncio.to_thread(pixels, found) == pixels(expected)


def video_of(folder: Path, tmp_path: Path) -> Path:
    frames = lone_frames(folder, tmp_path / "rank", SPEC, SAMPLE)[0, :, : SPEC.num_frames]
    shown = frames.permute(1, 2, 3, 0).add(1.0).mul(127.5).round().to(torch.uint8)
    path = tmp_path / "expected.mp4"
    write_mp4(SPEC, ModelProfile(), path, [shown.contiguous().numpy().tobytes()])
    return path


def pixels(video: Path) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
