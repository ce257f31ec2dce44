from pathlib import Path

import pytest

from broker.wire.job import JobSpec, Stage
from ranks.device import Device
from tests.ranks.conftest import draw_image
from tests.ranks.lone_engine import frames_of, lone_engine

SPEC = JobSpec(
    prompt="A small boat drifts over a calm bay",
    image_size="64*64",
    num_frames=9,
    infer_steps=1,
    sample_solver="euler",
    seed=7,
)


def test_the_host_waits_for_the_device_before_each_boundary_of_the_encoding(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an accelerator would go on encoding a job that was cancelled long ago."""
    draw_image(tmp_path / "sample.png")
    noted: list[object] = []
    with lone_engine(tmp_path / "rank", demo_folder) as engine:
        monkeypatch.setattr(Device, "synchronize", lambda device: noted.append("wait"))
        frames_of(engine, SPEC, tmp_path / "sample.png", look=lambda stage, _: noted.append(stage))
    num_encoded = 2 + 1 + 3  # prompts, image, and the chunks of 9 frames
    assert noted[: noted.index(Stage.DENOISE)] == ["wait", Stage.ENCODE] * num_encoded
