"""Groups of many machines on one queue: what each can run, how one leaves, and how one is lost."""

import msgspec

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
from broker.wire.job import GroupShape, JobState
from broker.wire.job_view import Lease
from broker.wire.replies import Refused
from tests.broker.dispatch.scene import Scene, find, kills, reply, runs
from tests.broker.driver import SPEC

LOST_S = 30.0
SMALL = GroupShape(world_size=2, num_heads=8)
LARGE = GroupShape(world_size=8, num_heads=8)
FOR_LARGE = msgspec.structs.replace(SPEC, ulysses_size=8)
FOR_NONE = msgspec.structs.replace(SPEC, ulysses_size=3)


def gathered() -> Scene:
    """Return a scene in which every machine has had the time to tell of its groups."""
    scene = Scene(shape=None)
    scene.wait(LOST_S + 1)
    return scene


def near_and_far() -> tuple[Scene, str, Lease]:
    """Return a scene in which two machines run a job each: that of `near`, the lease of `far`."""
    scene = gathered()
    scene.group("near")
    scene.group("far")
    first, second = scene.job(), scene.job()
    scene.start(first)
    lease = scene.start(second)
    assert lease.group == "far"
    return scene, first, lease


def test_each_group_gets_the_jobs_that_it_can_run() -> None:
    scene = gathered()
    scene.group("small", shape=SMALL)
    scene.group("large", shape=LARGE)
    scene.job()
    wide = scene.job(FOR_LARGE)
    assert scene.lease(wide).group == "large"


def test_a_job_goes_to_the_group_that_has_been_free_for_longest() -> None:
    scene = gathered()
    scene.group("a", shape=SMALL)
    scene.group("b", shape=SMALL)
    first = scene.start(scene.job())
    scene.finish(first)
    second, third = scene.job(), scene.job()
    assert [first.group, scene.lease(second).group, scene.lease(third).group] == ["a", "b", "a"]


def test_a_job_for_a_group_that_is_away_waits_while_others_go_on() -> None:
    scene = gathered()
    scene.group("large", shape=LARGE)
    scene.gone("large")
    scene.group("small", shape=SMALL)
    wide, other = scene.job(FOR_LARGE), scene.job()
    assert scene.lease(other).group == "small"
    scene.wait(LOST_S, beats_of=["small"])
    assert scene.view(wide).state is JobState.IN_QUEUE
    scene.group("large", epoch=2, shape=LARGE)
    assert scene.lease(wide).group == "large"


def test_a_job_that_no_group_could_ever_run_is_refused() -> None:
    scene = gathered()
    scene.group("small", shape=SMALL)
    scene.group("large", shape=LARGE)
    _, commands = scene.submit(FOR_NONE)
    refusal = reply(commands)
    assert isinstance(refusal, Refused)
    assert refusal.code is ErrorCode.UNSUPPORTED_LAYOUT


def test_nothing_is_refused_as_impossible_before_all_machines_were_heard() -> None:
    """Seen to fail without the time for gathering: the large group has not yet come back."""
    scene = Scene(shape=None)
    scene.group("small", shape=SMALL)
    wide = scene.job(FOR_LARGE)
    scene.wait(5, beats_of=["small"])
    scene.group("large", shape=LARGE)
    assert scene.lease(wide).group == "large"


def test_a_job_that_turns_out_impossible_fails_once_all_machines_were_heard() -> None:
    scene = Scene(shape=None)
    scene.group("small", shape=SMALL)
    wide = scene.job(FOR_LARGE)
    for _ in range(int(LOST_S) + 1):
        scene.wait(1, beats_of=["small"])
        scene.group("small", shape=SMALL)
    assert scene.view(wide).error_code is ErrorCode.UNSUPPORTED_LAYOUT


def test_a_group_of_two_is_not_expected_to_beat_with_eight() -> None:
    scene = gathered()
    scene.group("small", shape=SMALL)
    for _ in range(60):
        scene.beat("small", ranks=range(2))
        assert not kills(scene.wait(1))


def test_the_job_of_a_lost_machine_goes_on_elsewhere() -> None:
    """Seen to fail without `_give_up_silent`."""
    scene, first, lost = near_and_far()
    second = lost.job_id
    scene.wait(LOST_S, beats_of=["near"])
    assert scene.view(second).state is JobState.IN_PROGRESS
    scene.wait(1, beats_of=["near"])
    assert scene.view(second).state is JobState.IN_QUEUE
    scene.finish(scene.lease(first))
    scene.wait(10, beats_of=["near"])
    assert scene.lease(second).group == "near"


def test_the_job_of_a_machine_that_is_known_to_be_lost_does_not_wait_for_its_silence() -> None:
    """Seen to fail without `GroupLost` in `GroupLifecycle`."""
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
    scene.wait(10, beats_of=["near"])
    assert scene.lease(leases["far"]).group == "near"


def test_a_lost_group_may_begin_again_on_a_machine_whose_clock_is_behind() -> None:
    """Seen to fail with the peers of a lost group remembered."""
    peers = Peers()
    later, earlier = (GroupStarted(group="a", epoch=epoch, world_size=8) for epoch in (2, 1))
    assert peers.admit(b"lost", later)
    assert not peers.admit(b"new", earlier)
    assert peers.admit(b"fleet", GroupLost(group="a"))
    assert peers.admit(b"new", earlier)


def test_what_was_decided_for_a_life_that_is_over_is_not_handed_to_the_next() -> None:
    """Seen to fail with a group's rank 0 found by the name of the group alone."""
    peers = Peers()
    first, second = (
        GroupReady(group="a", epoch=epoch, shape=LARGE, device="stub") for epoch in (1, 2)
    )
    lease = Lease(group="a", epoch=1, job_id="b" * 32, attempt=1)
    assert peers.admit(b"first", first)
    assert peers.holder(lease) == b"first"
    assert peers.admit(b"second", second)
    assert peers.holder(lease) is None


def test_what_a_launcher_repeats_keeps_its_group_alive_and_news_is_handled() -> None:
    """Seen to fail with the group not noted as heard: it is given up."""
    scene = gathered()
    life = GroupStarted(group="far", epoch=2, world_size=8)
    assert not scene.dispatcher.is_repeated(life, scene.now_s)
    scene.handle(life)
    for _ in range(3):
        scene.wait(LOST_S / 2)
        assert scene.dispatcher.is_repeated(life, scene.now_s)
    assert scene.dispatcher.health().groups
    for other in (1, 3):
        news = msgspec.structs.replace(life, epoch=other)
        assert not scene.dispatcher.is_repeated(news, scene.now_s)
    scene.handle(GroupGone(group="far", epoch=2, reason="a test"))
    assert not scene.dispatcher.is_repeated(life, scene.now_s)


def test_a_lost_machine_that_comes_back_leaves_its_old_run_and_serves_again() -> None:
    scene = gathered()
    scene.group("near")
    job_id = scene.job()
    old = scene.start(job_id)
    scene.wait(LOST_S + 1)
    commands = scene.group("near", running=[old])
    assert not kills(commands)
    assert CancelRun(lease=old) in [command.message for command in find(commands, ToGroup)]
    scene.wait(10, beats_of=["near"])
    assert runs(scene.handle(JobStopped(lease=old)))


def test_a_group_is_asked_how_a_run_ended_that_it_no_longer_tells_of() -> None:
    """Seen to fail where only a restarted broker asks: the job would run for ever."""
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


def test_a_run_of_which_its_group_can_tell_nothing_is_lost() -> None:
    scene = gathered()
    scene.group("near")
    job_id = scene.job()
    scene.start(job_id)
    for _ in range(MAX_MISSED):
        assert find(scene.group("near"), AskHowItEnded)
    assert not find(scene.group("near"), AskHowItEnded)
    assert scene.view(job_id).state is JobState.IN_QUEUE
    scene.wait(10, beats_of=["near"])
    assert scene.lease(job_id).attempt == 2


def test_a_lease_from_the_journal_whose_machine_never_comes_back_is_given_up() -> None:
    before = Scene()
    before.group("far")
    job_id = before.job()
    before.start(job_id)
    after = Scene(before.journal.values(), shape=None)
    after.group("near")
    after.wait(LOST_S + 1, beats_of=["near"])
    after.wait(10, beats_of=["near"])
    assert after.lease(job_id).group == "near"


def test_a_group_that_leaves_finishes_its_run_and_takes_no_other() -> None:
    scene = gathered()
    scene.group("leaving")
    running = scene.job()
    lease = scene.start(running)
    waiting = scene.job()
    assert not drained(scene.handle(DrainGroup(group="leaving", epoch=1)))
    told = drained(scene.finish(lease))
    assert told == [GroupDrained(group="leaving", epoch=1)]
    assert scene.view(running).state is JobState.SUCCEED
    assert scene.view(waiting).state is JobState.IN_QUEUE
    assert drained(scene.handle(DrainGroup(group="leaving", epoch=1))) == told
    scene.group("staying")
    assert scene.lease(waiting).group == "staying"


def test_an_idle_group_may_leave_at_once() -> None:
    scene = gathered()
    scene.group("leaving")
    assert drained(scene.handle(DrainGroup(group="leaving", epoch=1)))


def test_groups_that_have_left_are_forgotten_in_time() -> None:
    scene = gathered()
    scene.handle(GroupStarted(group="a", epoch=1, world_size=2))
    scene.gone("a")
    scene.wait(601)
    assert not scene.dispatcher.health().groups


def drained(commands: list[Command]) -> list[GroupDrained]:
    sent = [command.message for command in find(commands, ToLauncher)]
    return [message for message in sent if isinstance(message, GroupDrained)]


def test_the_late_end_of_a_given_up_run_takes_no_video_from_the_attempt_that_succeeded() -> None:
    """Seen to fail with the video dropped of whichever job such a run was for."""
    scene, first, lost = near_and_far()
    second = lost.job_id
    scene.finish(scene.lease(first))
    scene.wait(LOST_S + 1, beats_of=["near"])
    scene.let_due()
    scene.finish(scene.start(second))
    assert scene.view(second).state is JobState.SUCCEED
    scene.group("far", running=[lost])
    commands = scene.handle(JobFinished(lease=lost, video=f"{second}.mp4"))
    assert find(commands, DropVideo) == []
