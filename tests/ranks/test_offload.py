"""Weights in host memory: the same bits as on the device, and never more there than is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from broker.wire.job import JobSpec
from broker.wire.model_profile import Family
from ranks.engine import Engine
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.lone_engine import frames_of, lone_engine

NUM_BLOCKS = 5
SPEC = JobSpec(
    prompt="a cat",
    negative_prompt="blurred",
    image_size="64*64",
    num_frames=9,
    infer_steps=3,
    guidance_scale=3.0,
    seed=7,
)
FAMILIES: tuple[Family, ...] = (
    "wan2.1-i2v",
    "wan2.1-flf2v",
    "wan2.2-i2v-a14b",
    "wan2.2-ti2v-5b",
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "sample.png"
    draw_image(path)
    return path


def deepened(folder: Path, into: Path) -> Path:
    """Copy a demo model with random transformers of more blocks."""
    shutil.copytree(folder, into)
    for part in ("transformer", "transformer_2"):
        if (into / part).exists():
            config = json.loads((into / part / "config.json").read_text())
            torch.manual_seed(1)
            model = WanTransformer3DModel.from_config(config | {"num_layers": NUM_BLOCKS})
            model.save_pretrained(into / part)
    return into


def video(engine: Engine, image: Path, **options: object) -> Tensor:
    needs_last = engine.shape.model.last_image == "required"
    options = {"last_image": image if needs_last else None} | options
    return frames_of(engine, SPEC, image, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=FAMILIES)
def model(
    request: pytest.FixtureRequest,
    demo_folders: DemoFolders,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return deepened(demo_folders(request.param), tmp_path_factory.mktemp("deep") / "model")


@pytest.fixture(scope="module")
def resident(model: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    with lone_engine(tmp_path_factory.mktemp("resident"), model) as engine:
        assert engine.models.hosted.host_bytes == 0
        return video(engine, image)


@pytest.mark.parametrize("offload", ["encoders", "models", "blocks", "blocks:2"])
def test_a_video_has_the_same_bits_wherever_the_weights_are_kept(
    model: Path, resident: Tensor, image: Path, tmp_path: Path, offload: str
) -> None:
    with lone_engine(tmp_path, model, offload) as engine:
        assert torch.equal(video(engine, image), resident)
        assert engine.models.hosted.device_bytes == 0
        assert torch.equal(video(engine, image), resident)
