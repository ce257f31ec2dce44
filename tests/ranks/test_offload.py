"""Weights in host memory: the same bits, and no more on the device than the estimate says."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from msgspec import structs
from torch import Tensor

from broker.wire.job import JobSpec, Stage
from broker.wire.model_profile import Family
from ranks.engine import Engine
from ranks.errors import RunCancelled
from ranks.model.block_streaming import BlockStreaming
from ranks.parallel.sharding import num_weight_bytes
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.lone_engine import frames_of, lone_engine
from tests.ranks.rank_group import RankGroup

NUM_BLOCKS = 5
SPEC = JobSpec(
    prompt="a cat",
    negative_prompt="blurred",
    image_size="64*64",
    num_frames=5,
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


def test_a_video_has_the_same_bits_when_blocks_are_streamed(
    model: Path, resident: Tensor, image: Path, tmp_path: Path
) -> None:
    with lone_engine(tmp_path, model, "blocks:1") as engine:
        assert torch.equal(video(engine, image), resident)
        assert engine.models.hosted.device_bytes == 0


@pytest.mark.full
@pytest.mark.parametrize("offload", ["encoders", "models", "blocks", "blocks:2"])
def test_a_video_has_the_same_bits_wherever_the_weights_are_kept(
    model: Path, resident: Tensor, image: Path, tmp_path: Path, offload: str
) -> None:
    with lone_engine(tmp_path, model, offload) as engine:
        assert torch.equal(video(engine, image), resident)
        assert engine.models.hosted.device_bytes == 0
        assert torch.equal(video(engine, image), resident)


def test_two_ranks_make_the_same_video_with_their_encoders_on_the_host(
    demo_folder: Path, tmp_path: Path
) -> None:
    found = {}
    for offload in ("none", "encoders"):
        folder = tmp_path / offload
        folder.mkdir()
        with RankGroup(folder, demo_folder, world_size=2, offload=offload) as group:
            draw_image(group.inputs_dir / "sample.png")
            for t5_fsdp in (False, True):
                result = group.run(structs.replace(SPEC, t5_fsdp=t5_fsdp))
                assert result.outcomes == {"done"}
                found[offload, t5_fsdp] = result.frames
            memory = group.shape.memory
        assert memory is not None
        assert bool(memory.encoder_bytes) == (offload == "encoders")
        assert bool(memory.t5_gathered_bytes) == (offload == "none")
    plain = found["none", False]
    assert plain is not None
    for frames in found.values():
        assert frames is not None
        assert torch.equal(frames, plain)


@pytest.fixture(scope="module")
def experts(demo_folders: DemoFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "model"
    return deepened(demo_folders("wan2.2-i2v-a14b"), folder)


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[BlockStreaming]:
    """Note each time that a transformer comes to the device."""
    noted: list[BlockStreaming] = []
    place = BlockStreaming.place

    def note(self: BlockStreaming) -> None:
        if not self.is_placed:
            noted.append(self)
        place(self)

    monkeypatch.setattr(BlockStreaming, "place", note)
    return noted


def test_two_experts_change_places_once_a_job_and_are_never_on_the_device_together(
    experts: Path, image: Path, tmp_path: Path, placed: list[BlockStreaming]
) -> None:
    found: dict[Stage, list[int]] = {}
    with lone_engine(tmp_path, experts, "models") as engine:
        first, second = engine.models.hosted.transformers
        expert_bytes = first.host_bytes
        spec = structs.replace(SPEC, infer_steps=4, sample_shift=3.0)

        def look(stage: Stage, step: int) -> None:
            found.setdefault(stage, []).append(engine.models.hosted.device_bytes)

        for _ in range(2):
            placed.clear()
            frames_of(engine, spec, image, look=look)
            assert placed == [first, second]
            assert set(found[Stage.DENOISE]) == {expert_bytes}
            assert set(found[Stage.DECODE]) == {0}
        # After the two prompts: encoders have gone, no transformer has come.
        assert set(found[Stage.ENCODE][2:]) == {0}


@pytest.fixture(scope="module")
def streaming(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Two experts, of which one block each stays."""
    with lone_engine(tmp_path_factory.mktemp("streaming"), experts, "blocks:1") as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(streaming: Engine, image: Path) -> Tensor:
    return frames_of(streaming, SPEC, image)


@pytest.mark.parametrize("boundary", [1, 3, 6])
def test_a_cancelled_job_leaves_the_device_empty_and_the_next_one_right(
    streaming: Engine, expected: Tensor, image: Path, boundary: int
) -> None:
    """While encoding, between two steps, and while decoding."""
    with pytest.raises(RunCancelled):
        frames_of(streaming, SPEC, image, cancel_after=boundary)
    assert streaming.models.hosted.device_bytes == 0
    assert torch.equal(frames_of(streaming, SPEC, image), expected)


def test_a_step_that_fails_between_two_blocks_leaves_the_next_job_right(
    streaming: Engine, expected: Tensor, image: Path
) -> None:
    block = streaming.models.transformers[0].model.blocks[2]
    broken = block.register_forward_pre_hook(_fail)
    with pytest.raises(ValueError, match="asked for"):
        frames_of(streaming, SPEC, image)
    broken.remove()
    assert streaming.models.hosted.device_bytes == 0
    assert torch.equal(frames_of(streaming, SPEC, image), expected)


def _fail(*_: object) -> None:
    raise ValueError("failure that the test asked for")


def test_the_estimate_is_what_is_on_the_device(streaming: Engine, image: Path) -> None:
    most: dict[Stage, int] = {}

    def look(stage: Stage, step: int) -> None:
        most[stage] = max(most.get(stage, 0), streaming.models.hosted.device_bytes)

    frames_of(streaming, SPEC, image, look=look)
    memory, models = streaming.shape.memory, streaming.models
    assert memory is not None
    # Each weight begins at a multiple of 256 bytes.
    assert most[Stage.DENOISE] == pytest.approx(memory.steps_bytes, rel=0.05)
    everything = sum(
        num_weight_bytes(part) for part in (*models.transformers, models.text_encoder, models.vae)
    )
    on_device = everything - models.hosted.host_bytes
    assert memory.weights_bytes == pytest.approx(on_device, abs=0.05 * everything)
    assert memory.encoder_bytes == num_weight_bytes(models.text_encoder)
