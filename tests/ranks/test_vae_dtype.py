"""A whole job with the VAE in bfloat16, as `--vae-dtype` asks for."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.config import VaeDtype
from tests.ranks.conftest import draw_image
from tests.ranks.lone_engine import frames_of, lone_engine

SPEC = JobSpec(prompt="a cat", image_size="64*64", num_frames=5, infer_steps=2, seed=7)


def make_video(
    folder: Path, model: Path, vae_dtype: VaeDtype | None
) -> tuple[Tensor, torch.dtype, int]:
    """Return the frames, the VAE's dtype, and its activations for a pixel."""
    folder.mkdir()
    draw_image(folder / "image.png")
    with lone_engine(folder, model, vae_dtype=vae_dtype) as engine:
        frames = frames_of(engine, SPEC, folder / "image.png")
        assert engine.shape.memory is not None
        return frames, engine.models.vae.dtype, engine.shape.memory.pixel_bytes


def test_a_video_in_bfloat16_is_the_same_to_the_eye_in_half_the_memory(
    tmp_path: Path, demo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    usual, dtype, pixel_bytes = make_video(tmp_path / "usual", demo_folder, None)
    assert dtype == torch.float32
    found, dtype, half_bytes = make_video(tmp_path / "bfloat16", demo_folder, "bfloat16")
    assert dtype == torch.bfloat16
    assert "the VAE computes in bfloat16" in caplog.messages
    assert half_bytes == pixel_bytes // 2
    psnr_db = 10 * math.log10(4 / (found.float() - usual).square().mean().item())
    assert psnr_db > 35
