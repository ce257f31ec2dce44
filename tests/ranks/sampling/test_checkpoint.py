"""Checkpoints of the denoising loop."""

from pathlib import Path

import pytest
import torch
from msgspec import structs

from broker.store.folder import FolderStore
from broker.store.store import CHECKPOINTS, checkpoint_name
from broker.wire.group_commands import RunJob
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from broker.wire.lora import LoraChoice
from broker.wire.model_profile import ModelProfile
from ranks.model.conditioning import draw_noise
from ranks.sampling.checkpoint import (
    Checkpoint,
    SaveSchedule,
    is_state,
    load_state,
    save_state,
    state_hash,
)
from ranks.sampling.denoise import Denoiser
from ranks.sampling.solver import make_solver

NAME = checkpoint_name("job")
STATE = {"step": torch.tensor(3), "latents": torch.arange(6.0).view(2, 3).T}


def test_a_loaded_state_is_identical_to_the_saved_one(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    path = store.local(NAME)
    save_state(STATE, store, NAME)
    loaded = load_state(path)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[name], value) for name, value in STATE.items())
    assert [entry.name for entry in path.parent.iterdir()] == ["job.safetensors"]


def test_long_steps_are_saved_before_their_number_is_reached() -> None:
    schedule = SaveSchedule(every_steps=5)
    schedule.begin(100.0)
    due = [schedule.is_due(step, 100.0 + 10.0 * step) for step in range(1, 6)]
    assert due == [False, True, False, True, True]
    schedule.begin(100.0)
    assert [schedule.is_due(step, 100.0 + step) for step in range(1, 6)] == [False] * 4 + [True]


def test_the_thread_saves_the_latest_state(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    path = store.local(NAME)
    checkpoint = Checkpoint(store, NAME)
    for step in range(1, 4):
        checkpoint.save({"step": torch.tensor(step)})
    checkpoint.close()
    assert load_state(path)["step"].item() == 3


def test_a_discarded_checkpoint_leaves_no_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    checkpoint = Checkpoint(store, NAME)
    checkpoint.save(STATE)
    checkpoint.discard()
    assert not list((tmp_path / CHECKPOINTS).iterdir())


def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = Checkpoint(FolderStore(tmp_path / "missing"), NAME)
    checkpoint.save(STATE)
    checkpoint.close()
    assert "no checkpoint could be saved" in caplog.text


def test_a_damaged_checkpoint_is_dropped(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    path = store.local(NAME)
    assert not is_state(path)
    save_state(STATE, store, NAME)
    assert is_state(path)
    path.write_bytes(path.read_bytes()[:40])
    assert not is_state(path)
    assert not path.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_checkpoint_with_nan_or_infinity_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: float
) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    save_state({"latents": torch.tensor([0.0, bad])}, store, NAME)
    assert not is_state(store.local(NAME))
    assert "latents holds NaN or infinity" in caplog.text
    assert not store.local(NAME).exists()


def test_a_denoiser_is_restored_with_its_solver() -> None:
    first = Denoiser(make_solver("unipc", 20, 5.0), draw_noise(1, (1, 4, 2, 4, 4)))
    for step in range(4):
        first.latents = first.solver.advance(step, first.latents * 0.1, first.latents)
        first.step += 1
    second = Denoiser(make_solver("unipc", 20, 5.0), draw_noise(2, (1, 4, 2, 4, 4)))
    second.restore(first.state())
    assert second.step == 4
    velocity = first.latents * 0.1
    ahead = [each.solver.advance(4, velocity, each.latents) for each in (first, second)]
    assert torch.equal(*ahead)


def test_a_checkpoint_of_another_model_is_removed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    save_state(STATE, store, NAME, model_hash="one")
    path = store.local(NAME)
    assert is_state(path, "one")
    assert not is_state(path, "two")
    assert not path.exists()


def test_the_hash_of_a_state_is_that_of_the_model_and_of_the_loras() -> None:
    """A resumed job never continues with other LoRAs, or with another strength."""
    model = ModelProfile(content_hash="m1")
    lease = Lease(group="g0", epoch=1, job_id="0" * 32, attempt=1)
    spec = JobSpec(prompt="A small dog walks")

    def of(file_hash: str, *loras: LoraChoice) -> str:
        job = RunJob(
            lease=lease,
            spec=structs.replace(spec, loras=loras),
            image="x",
            lora_hashes={"film": (file_hash,)} if loras else {},
        )
        return state_hash(model, job)

    assert of("") == "m1"
    film, weak = LoraChoice(name="film"), LoraChoice(name="film", strength=0.5)
    assert of("1", film) == of("1", film)
    assert len({of(""), of("1", film), of("2", film), of("1", weak)}) == 4


def test_a_job_goes_on_with_the_vae_in_the_dtype_that_encoded_its_picture() -> None:
    model = ModelProfile(content_hash="m1")
    lease = Lease(group="g0", epoch=1, job_id="0" * 32, attempt=1)
    job = RunJob(lease=lease, spec=JobSpec(prompt="A small dog walks"), image="x")
    assert state_hash(model, job, None) == "m1"
    assert len({state_hash(model, job, dtype) for dtype in (None, "bfloat16", "float32")}) == 3
