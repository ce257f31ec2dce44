"""Weights in host memory, for a device with a memory of its own: what it holds, what it makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from broker.wire.group_shape import job_bytes
from tests.npu.conftest import SMALL_MIB
from tests.npu.host import Host
from tests.npu.test_defects import SPEC
from tests.ranks.conftest import draw_image
from tests.ranks.rank_group import RankGroup
from tests.ranks.test_offload import deepened


@pytest.fixture(scope="module")
def deep(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deepened(demo_folder, tmp_path_factory.mktemp("deep") / "model")


@contextmanager
def group(
    folder: Path, host: Host, model: Path, world_size: int, offload: str | None
) -> Iterator[RankGroup]:
    start = partial(host.start, "tests.ranks.rank_group_main:main")
    folder.mkdir()
    with RankGroup(folder, model, world_size, device="npu", start=start, offload=offload) as opened:
        draw_image(opened.inputs_dir / "sample.png")
        yield opened


def test_a_device_that_streams_blocks_holds_what_is_told_and_makes_the_same_video(
    tmp_path: Path, host: Host, deep: Path
) -> None:
    found = {}
    for offload in ("none", "blocks"):
        with group(tmp_path / offload, host, deep, 1, offload) as ranks:
            result = ranks.run(SPEC)
            memory = ranks.shape.memory
        assert result.outcomes == {"done"}
        assert result.frames is not None
        assert memory is not None
        (report,) = result.reports
        needed = job_bytes(SPEC, memory, 1, 1, ranks.shape.model)
        assert report.peak_bytes <= needed
        found[offload] = (result.frames, report.held_bytes, memory.weights_bytes)
    assert torch.equal(found["none"][0], found["blocks"][0])
    freed = found["none"][2] - found["blocks"][2]
    assert found["none"][1] - found["blocks"][1] == pytest.approx(freed, rel=0.1)


def test_ranks_that_share_a_text_encoder_on_the_host_make_the_same_video(
    tmp_path: Path, host: Host, demo_folder: Path
) -> None:
    frames = []
    for offload in ("none", "encoders"):
        with group(tmp_path / offload, host, demo_folder, 2, offload) as ranks:
            result = ranks.run(SPEC)
        assert result.outcomes == {"done"}
        assert result.frames is not None
        frames.append(result.frames)
    assert torch.equal(*frames)


def test_a_device_that_is_too_small_for_all_of_a_model_streams_it(
    tmp_path: Path, host: Host, deep: Path
) -> None:
    """Nothing is asked for: the memory of the device decides."""
    with group(tmp_path / "group", host, deep, 1, None) as ranks:
        assert ranks.run(SPEC).outcomes == {"done"}
        memory = ranks.shape.memory
    assert memory is not None
    assert memory.capacity_bytes < SMALL_MIB << 20
    assert memory.steps_bytes > 0
