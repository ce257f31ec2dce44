"""The journal on disks that lose writes, fail and fill up: acknowledged jobs stay."""

import asyncio
import contextlib
import errno
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.dispatch.job_record import Job
from broker.errors import JournalError, JournalFullError
from broker.journal.journal import Journal
from broker.wire.job import JobState
from broker.wire.job_view import Lease
from broker.wire.replies import JobFound
from tests.broker.driver import (
    IMAGE,
    SPEC,
    BrokerProcess,
    Front,
    broker_config,
    new_job_id,
    running_broker,
)
from tests.broker.journal.faulty_disk import (
    FailAt,
    faulty_disk,
    io_error,
    power_loss,
    refuse_writes,
)
from tests.small_disk import fill, small_disk, use_up_inodes

# SQLite ignores some errors, as when it closes a file; apsw warns about them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NUM_POWER_LOSSES = 300
MAX_CALLS = 250


class JournalWriter:
    """Writes the changes of random jobs to a journal and remembers what was acknowledged."""

    def __init__(self, rng: random.Random) -> None:
        self.acknowledged: dict[str, Job] = {}
        self.unacknowledged: dict[str, Job] = {}
        """The versions in the transaction that failed, if one did."""
        self._rng = rng

    def write_transactions(self, journal: Journal, num_transactions: int) -> None:
        for _ in range(num_transactions):
            jobs = self._next_versions()
            self.unacknowledged = {job.job_id: job for job in jobs}
            journal.write(jobs)
            self.acknowledged |= self.unacknowledged
            self.unacknowledged = {}

    def num_lost(self, loaded: Sequence[Job]) -> int:
        """Return how many acknowledged versions a journal lacks.

        An unacknowledged transaction may have been written, but only as a whole.
        """
        jobs = {job.job_id: job for job in loaded}
        expected = self.acknowledged
        if self.unacknowledged and all(
            jobs.get(key) == job for key, job in self.unacknowledged.items()
        ):
            expected = self.acknowledged | self.unacknowledged
        unexpected = [job for key, job in jobs.items() if expected.get(key) != job]
        lost = [key for key in self.acknowledged if key not in jobs]
        return len(unexpected) + len(lost)

    def _next_versions(self) -> list[Job]:
        moving = [job for job in self.acknowledged.values() if not job.state.is_terminal]
        count = self._rng.randint(0, min(3, len(moving)))
        moved = [_moved(job) for job in self._rng.sample(moving, count)]
        first = len(self.acknowledged) + 1
        return moved + [_job(first + n) for n in range(self._rng.randint(not moved, 3))]


def _job(number: int) -> Job:
    return Job(
        number=number, job_id=f"{number:032x}", spec=SPEC, image=IMAGE,
        created_at=1.0, updated_at=1.0,
    )  # fmt: skip


def _moved(job: Job) -> Job:
    if job.state is JobState.IN_QUEUE:
        lease = Lease(group="a", epoch=1, job_id=job.job_id, attempt=1)
        return job.leased(lease, "hash", 2.0)
    return job.ended(JobState.SUCCEED, 3.0, progress=1.0, video=f"{job.job_id}.mp4")


def write_until_power_loss(folder: Path, seed: int, synchronous: str | None = None) -> int:
    """Write to a journal until the power fails; return how many acknowledged versions are lost."""
    rng = random.Random(seed)
    before, after = folder / f"{seed}-before", folder / f"{seed}-after"
    before.mkdir()
    after.mkdir()
    writer = JournalWriter(rng)
    with faulty_disk(power_loss(rng.randint(1, MAX_CALLS))) as disk:
        with contextlib.suppress(JournalError):
            journal = Journal(before / "jobs.sqlite3")
            if synchronous is not None:
                journal._connection.pragma("synchronous", synchronous)
            # With 10 pages, SQLite checkpoints the log again and again.
            journal._connection.pragma("wal_autocheckpoint", rng.choice((10, 1000)))
            writer.write_transactions(journal, MAX_CALLS)
        disk.write_survivors(after, rng)
    return writer.num_lost(load(after))


def load(folder: Path) -> list[Job]:
    """Return the jobs that a broker would load."""
    journal = Journal(folder / "jobs.sqlite3")
    try:
        return journal.load()
    finally:
        journal.close()


def test_acknowledged_jobs_survive_a_power_loss_at_any_moment(tmp_path: Path) -> None:
    lost = [write_until_power_loss(tmp_path, seed) for seed in range(NUM_POWER_LOSSES)]
    assert sum(lost) == 0


def test_with_normal_synchronisation_a_power_loss_loses_acknowledged_jobs(
    tmp_path: Path,
) -> None:
    """This shows that the test above can fail."""
    lost = [write_until_power_loss(tmp_path, seed, "NORMAL") for seed in range(30)]
    assert sum(lost) > 30


def test_an_io_error_at_any_call_is_raised_and_loses_nothing(tmp_path: Path) -> None:
    number, reached = 0, True
    while reached:
        number += 1
        before, after = tmp_path / f"{number}-before", tmp_path / f"{number}-after"
        before.mkdir()
        writer, fault = JournalWriter(random.Random(1)), FailAt(number, io_error, for_good=False)
        with faulty_disk(fault), contextlib.suppress(JournalError):
            journal = Journal(before / "jobs.sqlite3")
            journal._connection.pragma("wal_autocheckpoint", 10)
            writer.write_transactions(journal, 12)
        reached = fault.num_calls >= number
        shutil.copytree(before, after)  # with the journal still open, as after a crash
        assert writer.num_lost(load(after)) == 0
    assert number > 100


def test_a_full_disk_changes_nothing_and_the_journal_stays_usable(tmp_path: Path) -> None:
    """The disk is a real one: apsw would raise errors of a Python VFS that SQLite ignores."""
    num_refusals = 0
    for num_free_kib in range(0, 200, 4):
        writer = JournalWriter(random.Random(num_free_kib))
        with small_disk(tmp_path / "disk", 1024) as disk:
            journal = Journal(disk / "jobs.sqlite3")
            # SQLite checkpoints the log again and again, also while the disk is full.
            journal._connection.pragma("wal_autocheckpoint", 10)
            writer.write_transactions(journal, 10)
            reserve = disk / "reserve"
            reserve.write_bytes(bytes(num_free_kib << 10))
            ballast = fill(disk)
            reserve.unlink()
            try:
                writer.write_transactions(journal, 30)
            except JournalFullError:
                writer.unacknowledged = {}  # a full disk changes nothing
                num_refusals += 1
            assert writer.num_lost(journal.load()) == 0
            ballast.unlink()
            writer.write_transactions(journal, 30)
            assert writer.num_lost(journal.load()) == 0
            journal.close()
            assert writer.num_lost(load(disk)) == 0
    assert num_refusals > 5


@pytest.mark.parametrize("num_free", [0, 1])
def test_a_disk_without_free_inodes_is_named(tmp_path: Path, num_free: int) -> None:
    """SQLite says only that it cannot open the file, and `df` shows free space."""
    with small_disk(tmp_path / "disk", 1024, num_inodes=20) as disk:
        ballast = use_up_inodes(disk, num_free)
        with pytest.raises(JournalError, match="no free inodes"):
            Journal(disk / "jobs.sqlite3")
        shutil.rmtree(ballast)
        Journal(disk / "jobs.sqlite3").close()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS])
def test_an_exhausted_quota_and_a_read_only_remount_count_as_a_full_disk(
    tmp_path: Path, number: int
) -> None:
    """SQLite reports both as I/O errors, for which the broker would end."""
    writer = JournalWriter(random.Random(1))
    with faulty_disk() as disk:
        journal = Journal(tmp_path / "jobs.sqlite3")
        writer.write_transactions(journal, 10)
        disk.before, disk.errno = refuse_writes, number
        with pytest.raises(JournalFullError, match="no room to write"):
            writer.write_transactions(journal, 1)
        writer.unacknowledged = {}  # a full disk changes nothing
        disk.before = lambda _call: None
        writer.write_transactions(journal, 10)
        journal.close()
    assert writer.num_lost(load(tmp_path)) == 0


@pytest.mark.parametrize("fault", [("write", "1"), ("write", "9"), ("sync", "1"), ("sync", "7")])
async def test_an_io_error_ends_the_broker_and_a_restart_finds_every_accepted_job(
    tmp_path: Path, fault: tuple[str, str]
) -> None:
    config = broker_config(tmp_path)
    accepted: list[str] = []
    async with Front(config) as front:
        broken = BrokerProcess(config, "tests.broker.journal.broker_on_faulty_disk", *fault)
        async with running_broker(config) as broker:
            await front.submit_ok()
            assert await broker.stop() == 0
        await broken.start()
        end = asyncio.create_task(broken.process.wait())
        while not end.done():
            await front.send_submit(new_job_id())
            answer = asyncio.create_task(front.replies(1))
            await asyncio.wait([answer, end], return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                (reply,) = answer.result()
                assert isinstance(reply, JobFound)
                accepted.append(reply.job.job_id)
            else:
                answer.cancel()
        assert end.result() == 70
        front.reconnect()
        async with running_broker(config):
            for job_id in accepted:
                await front.get(job_id)
