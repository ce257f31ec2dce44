"""Videos, images and checkpoints of the ranks in an object store that may fail."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYetError
from pathlib import Path

import pytest
import torch
from msgspec import structs

from broker.store.bucket import ObjectStore, StoredObject
from broker.store.opening import open_store
from broker.store.store import INPUTS, VIDEOS, Move, checkpoint_name, go_on
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import RunJob
from broker.wire.model_profile import ModelProfile
from ranks.errors import GroupStopping, JobError, RunCancelled
from ranks.job_inputs import NO_ROOM, JobInputs
from ranks.job_inputs import NO_STORE as NO_IMAGE
from ranks.media import video_writer as video
from ranks.media.video_writer import NO_STORE, SLOW_STORE, VideoWriter
from ranks.sampling.checkpoint import Checkpoint, load_state
from tests.object_store import Fault, Site
from tests.ranks.media.test_video_writer import LEASE, SPEC, stripes
from tests.small_disk import fill, small_disk

LIMIT_S = 60.0
IMAGE = f"{7:064x}.ppm"
JOB = RunJob(lease=LEASE, spec=SPEC, image=IMAGE)
NAMES = [f"{VIDEOS}/{LEASE.job_id}{end}" for end in (".mp4", ".sprites.webp", ".webp")]
OUTAGES: list[Fault] = ["refuses", "unavailable", "silent", "cut"]


@pytest.fixture
def store(site: Site, tmp_path: Path) -> ObjectStore:
    store = open_store(site.place, str(tmp_path / "work"))
    assert isinstance(store, ObjectStore)
    store.prepare()
    return store


def like(store: ObjectStore, kind: type[ObjectStore]) -> ObjectStore:
    """Return a store of another class with the same bucket and folders."""
    return kind(store.place, store.partial("made").parent.parent)


class Writing:
    """A `VideoWriter` that writes a video to a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.is_cancelled = False
        self.delays: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self.writer = VideoWriter(
            LEASE,
            SPEC,
            ModelProfile(),
            Path("no image"),
            store,
            lambda: self.is_cancelled,
            self.delays.put,
            lambda failure, _: self.ends.put(failure),
        )
        for frames in stripes(24).split(4, dim=2):
            self.writer.add(frames)
        self.writer.finish()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.bucket.REQUEST_LIMIT_S", 1)


def test_a_video_and_its_stills_are_in_the_store_and_no_file_stays_here(
    site: Site, store: ObjectStore, tmp_path: Path
) -> None:
    writing = Writing(store)
    assert writing.ends.get(timeout=LIMIT_S) is None
    assert site.names() == NAMES
    assert store.fetch(NAMES[0]).read_bytes()[4:8] == b"ftyp"
    store.release(NAMES[0])
    assert files(tmp_path) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", OUTAGES)
def test_a_video_waits_for_a_store_that_fails_and_is_never_visible_in_part(
    fault: Fault, site: Site, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "cut":  # the video is small, so cut the upload earlier
        monkeypatch.setattr("tests.object_store.CUT_BYTES", 600)
    site.proxy.fail(fault)
    writing = Writing(store)
    for _ in range(2):
        assert writing.delays.get(timeout=LIMIT_S) == NO_STORE
        assert NAMES[0] not in site.names()
        assert writing.ends.empty()
    site.proxy.recover()
    assert writing.ends.get(timeout=LIMIT_S) is None
    assert site.names() == NAMES
    assert site.num_uploads() == 0


def test_stills_come_first_and_the_video_last(store: ObjectStore) -> None:
    """So that the stills of a visible video are always there."""
    seen: list[str] = []

    class Noting(ObjectStore):
        def find(self, name: str) -> StoredObject | None:
            seen.append(name)  # called right after the upload of `name`
            return super().find(name)

    assert Writing(like(store, Noting)).ends.get(timeout=LIMIT_S) is None
    assert seen == [NAMES[2], NAMES[1], NAMES[0]]


def test_an_upload_that_the_store_does_not_show_is_tried_again(
    site: Site, store: ObjectStore
) -> None:
    lies = [True, True]

    class Forgetful(ObjectStore):
        def find(self, name: str) -> StoredObject | None:
            return None if lies and lies.pop() else super().find(name)

    writing = Writing(like(store, Forgetful))
    assert writing.delays.get(timeout=LIMIT_S) == NO_STORE
    assert writing.ends.get(timeout=LIMIT_S) is None
    assert site.names() == NAMES


@pytest.mark.usefixtures("impatient")
def test_a_video_that_waits_for_the_store_can_be_cancelled(site: Site, store: ObjectStore) -> None:
    site.proxy.fail("silent")
    writing = Writing(store)
    writing.delays.get(timeout=LIMIT_S)
    writing.is_cancelled = True
    assert isinstance(writing.ends.get(timeout=LIMIT_S), RunCancelled)
    site.proxy.recover()
    assert site.names() == []


def test_a_stopping_group_does_not_wait_for_the_store(site: Site, store: ObjectStore) -> None:
    site.proxy.fail("refuses")
    writing = Writing(store)
    writing.delays.get(timeout=LIMIT_S)
    writing.writer.stop_waiting()
    assert isinstance(writing.ends.get(timeout=LIMIT_S), GroupStopping)


def test_a_slow_upload_reports_the_delay(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute without a report, the broker would have the group killed."""
    monkeypatch.setattr(video, "REPORT_DELAY_EVERY_S", 0.0)
    writing = Writing(store)
    assert writing.ends.get(timeout=LIMIT_S) is None
    assert writing.delays.get(timeout=LIMIT_S) == SLOW_STORE


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_checkpoint_can_be_read_back_from_the_store(store: ObjectStore, tmp_path: Path) -> None:
    name = checkpoint_name(LEASE.job_id)
    checkpoint = Checkpoint(store, name)
    for step in range(1, 4):
        checkpoint.save({"step": torch.tensor(step)})
    checkpoint.close()
    assert files(tmp_path) == []
    assert load_state(store.fetch(name))["step"].item() == 3


def test_a_slow_store_gets_the_latest_of_the_states_that_wait(
    store: ObjectStore,
) -> None:
    begun, may_continue, saved = threading.Event(), threading.Event(), list[float]()

    class Slow(ObjectStore):
        def put(self, moves: Sequence[Move], check: Callable[[], None] = go_on) -> None:
            saved.append(load_state(moves[0].file)["step"].item())
            begun.set()
            assert may_continue.wait(LIMIT_S)
            super().put(moves, check)

    checkpoint = Checkpoint(like(store, Slow), checkpoint_name(LEASE.job_id))
    checkpoint.save({"step": torch.tensor(1)})
    assert begun.wait(LIMIT_S)
    for step in (2, 3, 4):
        checkpoint.save({"step": torch.tensor(step)})
    may_continue.set()
    checkpoint.close()
    assert saved == [1, 4]


def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_run(
    site: Site, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    site.proxy.fail("refuses")
    checkpoint = Checkpoint(store, checkpoint_name(LEASE.job_id))
    checkpoint.save({"step": torch.tensor(1)})
    checkpoint.discard()
    assert "no checkpoint could be saved" in caplog.text
    assert "a checkpoint stays until its job is removed" in caplog.text


# --- inputs of a run -----------------------------------------------------------------------------


def put(store: ObjectStore, name: str, content: bytes) -> None:
    file = store.partial(INPUTS) / "made"
    file.write_bytes(content)
    store.put([Move(file, name)])
    file.unlink(missing_ok=True)


def job_inputs(
    store: ObjectStore,
    delays: "queue.SimpleQueue[str] | None" = None,
    error: Exception | None = None,
    job: RunJob = JOB,
) -> JobInputs:
    def check() -> None:
        if error is not None:
            raise error

    return JobInputs(store, job, check, (delays or queue.SimpleQueue()).put, "")


def test_image_and_checkpoint_are_fetched_and_removed_after_the_run(
    store: ObjectStore, tmp_path: Path
) -> None:
    put(store, f"{INPUTS}/{IMAGE}", b"pixels")
    inputs = job_inputs(store)
    assert inputs.begin().result(LIMIT_S) is False
    assert store.local(f"{INPUTS}/{IMAGE}").read_bytes() == b"pixels"
    checkpoint = Checkpoint(store, checkpoint_name(LEASE.job_id))
    checkpoint.save({"step": torch.tensor(3)})
    checkpoint.close()
    assert inputs.begin().result(LIMIT_S) is True
    assert load_state(store.local(checkpoint_name(LEASE.job_id)))["step"].item() == 3
    inputs.release()
    assert files(tmp_path) == []


def test_a_job_is_not_resumed_from_a_damaged_checkpoint(store: ObjectStore) -> None:
    put(store, f"{INPUTS}/{IMAGE}", b"pixels")
    put(store, checkpoint_name(LEASE.job_id), b"no state")
    assert job_inputs(store).begin().result(LIMIT_S) is False


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["refuses", "unavailable", "silent"])
def test_a_run_waits_for_its_image(fault: Fault, site: Site, store: ObjectStore) -> None:
    put(store, f"{INPUTS}/{IMAGE}", b"pixels")
    site.proxy.fail(fault)
    delays: queue.SimpleQueue[str] = queue.SimpleQueue()
    fetching = job_inputs(store, delays).begin()
    for _ in range(2):
        assert delays.get(timeout=LIMIT_S) == NO_IMAGE
    with pytest.raises(NotYetError):
        fetching.result(0)
    site.proxy.recover()
    assert fetching.result(LIMIT_S) is False


def test_a_run_waits_for_room_for_its_image(site: Site, store: ObjectStore, tmp_path: Path) -> None:
    put(store, f"{INPUTS}/{IMAGE}", os.urandom(1 << 20))
    delays: queue.SimpleQueue[str] = queue.SimpleQueue()
    with small_disk(tmp_path / "disk", 4096) as disk:
        ballast = fill(disk)
        small = ObjectStore(site.place, disk)
        fetching = job_inputs(small, delays).begin()
        assert delays.get(timeout=LIMIT_S) == NO_ROOM
        ballast.unlink()
        assert fetching.result(LIMIT_S) is False


@pytest.mark.parametrize(("name", "is_first_there"), [("image", False), ("last image", True)])
def test_an_image_that_is_gone_fails_the_job(
    store: ObjectStore, name: str, is_first_there: bool
) -> None:
    if is_first_there:
        put(store, f"{INPUTS}/{IMAGE}", b"pixels")
    job = structs.replace(JOB, last_image=f"{8:064x}.ppm")
    with pytest.raises(JobError, match=f"^the stored {name} can no longer be read; submit") as gone:
        job_inputs(store, job=job).begin().result(LIMIT_S)
    assert gone.value.code is ErrorCode.IMAGE_INVALID


def test_a_run_that_waits_for_its_image_can_be_cancelled(site: Site, store: ObjectStore) -> None:
    site.proxy.fail("refuses")
    with pytest.raises(RunCancelled):
        job_inputs(store, error=RunCancelled()).begin().result(LIMIT_S)
