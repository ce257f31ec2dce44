"""Groups on many machines that share one queue: what each can run, draining, and lost machines."""

import logging

import msgspec
import pytest

from broker.dispatch.commands import AskHowItEnded, Command, DropVideo, ToGroup, ToLauncher
from broker.dispatch.group_lifecycle import MAX_MISSED
from broker.peers import Peers
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun, GroupDrained
from broker.wire.group_reports import (
    DrainGroup,
    GroupGone,
    GroupLost,
    GroupReady,
    GroupStarted,
    JobFinished,
    JobStopped,
)
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobState
from broker.wire.job_view import Lease
from broker.wire.replies import Refused
from tests.broker.dispatch.scene import Scene, find, kill_commands, reply, run_commands
from tests.broker.driver import SPEC

LOST_S = 30.0
SMALL = GroupShape(world_size=2, num_heads=8)
LARGE = GroupShape(world_size=8, num_heads=8)
LARGE_ONLY = msgspec.structs.replace(SPEC, ulysses_size=8)
IMPOSSIBLE = msgspec.structs.replace(SPEC, ulysses_size=3)


def gathered() -> Scene:
    """Return a scene in which every machine had time to report its groups."""
    scene = Scene(is_open=True)
    scene.wait(LOST_S + 1)
    return scene


def near_and_far() -> tuple[Scene, str, Lease]:
    """Return a scene with a job on each of two machines, that of `near` and the lease of `far`."""
    scene = gathered()
    scene.group("near")
    scene.group("far")
    first, second = scene.job(), scene.job()
    scene.start(first)
    lease = scene.start(second)
    assert lease.group == "far"
    return scene, first, lease


def test_each_group_gets_jobs_it_can_run() -> None:
    scene = gathered()
    scene.group("small", shape=SMALL)
    scene.group("large", shape=LARGE)
    scene.job()
    wide = scene.job(LARGE_ONLY)
    assert scene.lease(wide).group == "large"


def test_a_job_goes_to_the_group_that_has_been_free_longest() -> None:
    scene = gathered()
    scene.group("a", shape=SMALL)
    scene.group("b", shape=SMALL)
    first = scene.start(scene.job())
    scene.finish(first)
    second, third = scene.job(), scene.job()
    assert [first.group, scene.lease(second).group, scene.lease(third).group] == ["a", "b", "a"]


def test_a_job_waits_for_the_only_group_that_can_run_it_while_other_jobs_run() -> None:
    scene = gathered()
    scene.group("large", shape=LARGE)
    scene.lose_group("large")
    scene.group("small", shape=SMALL)
    wide, other = scene.job(LARGE_ONLY), scene.job()
    assert scene.lease(other).group == "small"
    scene.wait(LOST_S, heartbeats_of=["small"])
    assert scene.view(wide).state is JobState.IN_QUEUE
    scene.group("large", epoch=2, shape=LARGE)
    assert scene.lease(wide).group == "large"


def test_a_job_that_no_known_group_can_run_is_refused() -> None:
    scene = gathered()
    scene.group("small", shape=SMALL)
    scene.group("large", shape=LARGE)
    _, commands = scene.submit(IMPOSSIBLE)
    refusal = reply(commands)
    assert isinstance(refusal, Refused)
    assert refusal.code is ErrorCode.UNSUPPORTED_LAYOUT


def test_no_job_is_refused_as_impossible_until_all_machines_had_time_to_report() -> None:
    """After a restart of the broker the large group may not have registered again yet."""
    scene = Scene(is_open=True)
    scene.group("small", shape=SMALL)
    wide = scene.job(LARGE_ONLY)
    scene.wait(5, heartbeats_of=["small"])
    scene.group("large", shape=LARGE)
    assert scene.lease(wide).group == "large"


def test_an_impossible_job_fails_once_all_machines_had_time_to_report() -> None:
    scene = Scene(is_open=True)
    scene.group("small", shape=SMALL)
    wide = scene.job(LARGE_ONLY)
    for _ in range(int(LOST_S) + 1):
        scene.wait(1, heartbeats_of=["small"])
        scene.group("small", shape=SMALL)
    assert scene.view(wide).error_code is ErrorCode.UNSUPPORTED_LAYOUT


def test_a_group_of_two_ranks_owes_two_heartbeats() -> None:
    scene = gathered()
    scene.group("small", shape=SMALL)
    for _ in range(60):
        scene.heartbeat("small", ranks=range(2))
        assert not kill_commands(scene.wait(1))


def test_the_job_of_a_silent_machine_goes_to_another_group() -> None:
    scene, first, lost = near_and_far()
    second = lost.job_id
    scene.wait(LOST_S, heartbeats_of=["near"])
    assert scene.view(second).state is JobState.IN_PROGRESS
    scene.wait(1, heartbeats_of=["near"])
    assert scene.view(second).state is JobState.IN_QUEUE
    scene.finish(scene.lease(first))
    scene.wait(10, heartbeats_of=["near"])
    assert scene.lease(second).group == "near"


def test_the_job_of_a_machine_reported_lost_is_requeued_at_once() -> None:
    scene = gathered()
    scene.group("near")
    scene.group("far")
    jobs = [scene.job(), scene.job()]
    leases = {scene.start(job_id).group: job_id for job_id in jobs}
    scene.handle(GroupLost(group="far"))
    assert scene.view(leases["far"]).state is JobState.IN_QUEUE
    assert scene.view(leases["near"]).state is JobState.IN_PROGRESS
    scene.handle(GroupLost(group="far"))
    scene.finish(scene.lease(leases["near"]))
    scene.wait(10, heartbeats_of=["near"])
    assert scene.lease(leases["far"]).group == "near"


def test_a_lost_group_may_start_again_with_a_lower_epoch() -> None:
    """Epochs come from clocks, and the clock of another machine may be behind."""
    peers = Peers()
    later, earlier = (GroupStarted(group="a", epoch=epoch, world_size=8) for epoch in (2, 1))
    assert peers.admit(b"lost", later)
    assert not peers.admit(b"new", earlier)
    assert peers.admit(b"launcher", GroupLost(group="a"))
    assert peers.admit(b"new", earlier)


def test_a_lease_of_an_earlier_life_has_no_holder() -> None:
    """A command for that lease must not reach rank 0 of the next life."""
    peers = Peers()
    first, second = (
        GroupReady(group="a", epoch=epoch, shape=LARGE, device="stub") for epoch in (1, 2)
    )
    lease = Lease(group="a", epoch=1, job_id="b" * 32, attempt=1)
    assert peers.admit(b"first", first)
    assert peers.holder(lease) == b"first"
    assert peers.admit(b"second", second)
    assert peers.holder(lease) is None


def test_a_repeated_report_keeps_its_group_alive_and_a_new_one_is_handled() -> None:
    scene = gathered()
    life = GroupStarted(group="far", epoch=2, world_size=8)
    assert not scene.dispatcher.is_repeated(life, scene.now_s)
    scene.handle(life)
    for _ in range(3):
        scene.wait(LOST_S / 2)
        assert scene.dispatcher.is_repeated(life, scene.now_s)
    assert scene.dispatcher.health().groups
    for epoch in (1, 3):
        other_life = msgspec.structs.replace(life, epoch=epoch)
        assert not scene.dispatcher.is_repeated(other_life, scene.now_s)
    scene.handle(GroupGone(group="far", epoch=2, reason="a test"))
    assert not scene.dispatcher.is_repeated(life, scene.now_s)


def test_a_lost_machine_that_returns_leaves_its_old_attempt_and_serves_again() -> None:
    scene = gathered()
    scene.group("near")
    job_id = scene.job()
    old = scene.start(job_id)
    scene.wait(LOST_S + 1)
    commands = scene.group("near", running=[old])
    assert not kill_commands(commands)
    assert CancelRun(lease=old) in [command.message for command in find(commands, ToGroup)]
    scene.wait(10, heartbeats_of=["near"])
    assert run_commands(scene.handle(JobStopped(lease=old)))


def test_a_group_is_asked_how_an_attempt_ended_that_it_no_longer_lists() -> None:
    """If the report of the end was lost, the job would otherwise stay in progress forever."""
    scene = gathered()
    scene.group("near")
    job_id = scene.job()
    lease = scene.start(job_id)
    assert not find(scene.group("near", running=[lease]), AskHowItEnded)
    (asked,) = find(scene.group("near"), AskHowItEnded)
    assert asked.lease == lease
    scene.handle(JobFinished(lease=lease, video=f"{job_id}.mp4"))
    assert scene.view(job_id).state is JobState.SUCCEED
    assert not find(scene.group("near"), AskHowItEnded)


def test_an_attempt_is_lost_if_its_group_never_reports_how_it_ended() -> None:
    scene = gathered()
    scene.group("near")
    job_id = scene.job()
    scene.start(job_id)
    for _ in range(MAX_MISSED):
        assert find(scene.group("near"), AskHowItEnded)
    assert not find(scene.group("near"), AskHowItEnded)
    assert scene.view(job_id).state is JobState.IN_QUEUE
    scene.wait(10, heartbeats_of=["near"])
    assert scene.lease(job_id).attempt == 2


def test_a_lease_in_the_journal_is_taken_back_if_its_machine_never_returns() -> None:
    before = Scene()
    before.group("far")
    job_id = before.job()
    before.start(job_id)
    after = Scene(before.journal.values(), is_open=True)
    after.group("near")
    after.wait(LOST_S + 1, heartbeats_of=["near"])
    after.wait(10, heartbeats_of=["near"])
    assert after.lease(job_id).group == "near"


def test_a_draining_group_finishes_its_attempt_and_takes_no_other() -> None:
    scene = gathered()
    scene.group("leaving")
    running = scene.job()
    lease = scene.start(running)
    waiting = scene.job()
    assert not drained(scene.handle(DrainGroup(group="leaving", epoch=1)))
    reports = drained(scene.finish(lease))
    assert reports == [GroupDrained(group="leaving", epoch=1)]
    assert scene.view(running).state is JobState.SUCCEED
    assert scene.view(waiting).state is JobState.IN_QUEUE
    assert drained(scene.handle(DrainGroup(group="leaving", epoch=1))) == reports
    scene.group("staying")
    assert scene.lease(waiting).group == "staying"


def test_an_idle_group_is_drained_at_once() -> None:
    scene = gathered()
    scene.group("leaving")
    assert drained(scene.handle(DrainGroup(group="leaving", epoch=1)))


def test_a_group_that_is_gone_is_forgotten_after_ten_minutes() -> None:
    scene = gathered()
    scene.handle(GroupStarted(group="a", epoch=1, world_size=2))
    scene.lose_group("a")
    scene.wait(601)
    assert not scene.dispatcher.health().groups


def drained(commands: list[Command]) -> list[GroupDrained]:
    messages = [command.message for command in find(commands, ToLauncher)]
    return [message for message in messages if isinstance(message, GroupDrained)]


def test_a_late_report_of_a_lost_attempt_does_not_remove_the_video_of_a_successful_one() -> None:
    scene, first, lost = near_and_far()
    second = lost.job_id
    scene.finish(scene.lease(first))
    scene.wait(LOST_S + 1, heartbeats_of=["near"])
    scene.wait_out_retry_pause()
    scene.finish(scene.start(second))
    assert scene.view(second).state is JobState.SUCCEED
    scene.group("far", running=[lost])
    commands = scene.handle(JobFinished(lease=lost, video=f"{second}.mp4"))
    assert find(commands, DropVideo) == []


def test_only_a_group_that_was_not_to_leave_is_worth_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    scene = gathered()
    for name in ("leaving", "lost"):
        scene.group(name)
    scene.handle(DrainGroup(group="leaving", epoch=1))
    caplog.clear()
    for name in ("leaving", "lost"):
        scene.lose_group(name)
    gone = [record for record in caplog.records if "is gone" in record.getMessage()]
    assert [record.levelname for record in gone] == ["INFO", "WARNING"]
