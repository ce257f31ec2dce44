"""What counts as a hang: silent ranks and stages that finish nothing, but not slow steps."""

import pytest
from msgspec.structs import replace

from broker.dispatch.liveness import RankWatch
from broker.wire.group_reports import GroupStarted, JobStarted
from broker.wire.group_shape import GroupShape, step_work
from broker.wire.job import Stage
from broker.wire.rank_messages import Heartbeat
from tests.broker.dispatch.scene import Scene, kill_commands
from tests.broker.driver import SPEC


def send_heartbeats(
    scene: Scene, seconds: int, stage: Stage, num_done: int, last_rank: int = 7
) -> None:
    """Let a group send heartbeats that show no finished work; nothing is killed."""
    for _ in range(seconds):
        scene.now_s += 1.0
        scene.heartbeat("a", stage=stage, num_done=num_done, ranks=range(last_rank + 1))
        assert not kill_commands(scene.dispatcher.tick(scene.now_s))


def heartbeat(stage: Stage) -> Heartbeat:
    return Heartbeat(
        group="a", epoch=1, rank=0, pid=1, device="test", stage=stage, step=0, num_done=0,
        memory_bytes=0,
    )  # fmt: skip


def test_a_group_is_killed_if_a_rank_sends_no_heartbeat_for_ten_seconds() -> None:
    scene = Scene()
    scene.group()
    scene.heartbeat("a")
    send_heartbeats(scene, 10, Stage.IDLE, 0, last_rank=6)
    (kill,) = kill_commands(scene.wait(1))
    assert kill.reason == "rank 7 has sent no heartbeat for 10 s"


def test_a_group_is_killed_if_a_rank_never_sends_a_heartbeat() -> None:
    scene = Scene()
    scene.group()
    send_heartbeats(scene, 10, Stage.IDLE, 0, last_rank=6)
    (kill,) = kill_commands(scene.wait(1))
    assert kill.reason == "rank 7 has sent no heartbeat in 10 s"


def test_loading_may_take_half_an_hour() -> None:
    scene = Scene()
    scene.handle(GroupStarted(group="a", epoch=1, world_size=8))
    send_heartbeats(scene, 1800, Stage.LOAD, 0)
    scene.now_s += 1.0
    scene.heartbeat("a", stage=Stage.LOAD)
    (kill,) = kill_commands(scene.wait(1))
    assert kill.reason == "rank 0 has finished nothing in stage load for 1800 s"


@pytest.mark.parametrize(
    ("stage", "limit_s"),
    [(Stage.ENCODE, 180), (Stage.DENOISE, 300), (Stage.DECODE, 180), (Stage.SAVE, 60)],
)
def test_a_group_that_finishes_nothing_within_the_limit_of_its_stage_is_killed(
    stage: Stage, limit_s: int
) -> None:
    scene = Scene()
    scene.group()
    scene.start(scene.job())
    send_heartbeats(scene, limit_s + 1, stage, 7)
    scene.now_s += 1.0
    scene.heartbeat("a", stage=stage, num_done=7)
    (kill,) = kill_commands(scene.dispatcher.tick(scene.now_s))
    assert kill.reason == f"rank 0 has finished nothing in stage {stage.value} for {limit_s} s"


def test_the_limits_of_a_slow_device_are_multiplied_by_the_patience_of_its_group() -> None:
    scene = Scene()
    scene.group(patience=10.0)
    scene.start(scene.job())
    send_heartbeats(scene, 1800, Stage.ENCODE, 0)
    send_heartbeats(scene, 3001, Stage.DENOISE, 1)
    scene.now_s += 1.0
    scene.heartbeat("a", stage=Stage.DENOISE, num_done=1)
    (kill,) = kill_commands(scene.dispatcher.tick(scene.now_s))
    assert kill.reason == "rank 0 has finished nothing in stage denoise for 3000 s"


@pytest.mark.parametrize("is_known", [True, False])
def test_a_short_limit_holds_from_the_first_heartbeat_of_its_stage(is_known: bool) -> None:
    """`RankWatch` skips checks until the next known limit, which a new stage may bring forward.

    The first heartbeat of a rank that was loading may do so too.
    """
    watch = RankWatch(0.0, step_limit_s=0.4)
    watch.expect_all(1, 0.0)
    if is_known:
        watch.observe(heartbeat(Stage.IDLE), 1.0)
    assert watch.fault(False, 1.0) is None
    watch.observe(heartbeat(Stage.DENOISE), 2.0)
    assert watch.fault(True, 4.0) is None
    assert watch.fault(True, 4.5) == "rank 0 has finished nothing in stage denoise for 2 s"


def test_a_heartbeat_received_during_a_long_wait_for_the_disk_counts_as_fresh() -> None:
    scene = Scene()
    scene.group()
    scene.wait(5, heartbeats_of=["a"])
    scene.now_s += 60.0
    scene.heartbeat("a")
    scene.tick()
    scene.wait(10)
    assert kill_commands(scene.wait(1))


def test_finished_work_restarts_the_limit() -> None:
    scene = Scene()
    scene.group()
    scene.start(scene.job())
    for num_done in range(10):
        send_heartbeats(scene, 50, Stage.DENOISE, num_done)


def test_a_group_with_slow_steps_may_take_ten_times_their_median() -> None:
    scene = Scene()
    scene.group()
    lease = scene.lease(scene.job())
    scene.handle(JobStarted(lease=lease))
    scene.step(lease, Stage.ENCODE, 1, 1)
    for step in range(1, 6):
        send_heartbeats(scene, 20, Stage.DENOISE, step)
        scene.step(lease, Stage.DENOISE, step, 20)
    send_heartbeats(scene, 180, Stage.DENOISE, 5)
    assert kill_commands(scene.wait(30, heartbeats_of=()))


def test_the_first_step_of_a_slow_card_does_not_count_as_a_hang() -> None:
    """One Ascend 910B takes 96 s for a step of the largest clip."""
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.step(lease, Stage.ENCODE, 1, 1)
    for step in range(1, 4):
        send_heartbeats(scene, 96, Stage.DENOISE, step)
        scene.step(lease, Stage.DENOISE, step, 20)


def test_a_hang_is_noticed_sooner_once_a_step_is_known() -> None:
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.step(lease, Stage.ENCODE, 1, 1)
    send_heartbeats(scene, 2, Stage.DENOISE, 1)
    scene.step(lease, Stage.DENOISE, 1, 20)
    send_heartbeats(scene, 61, Stage.DENOISE, 2)
    scene.now_s += 1.0
    scene.heartbeat("a", stage=Stage.DENOISE, num_done=2)
    (kill,) = kill_commands(scene.tick())
    assert kill.reason == "rank 0 has finished nothing in stage denoise for 60 s"


def test_a_step_of_a_large_clip_after_those_of_small_ones_does_not_count_as_a_hang() -> None:
    small = replace(SPEC, image_size="448*256", num_frames=24)
    large = replace(SPEC, image_size="1280*720", num_frames=121)
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job(small))
    scene.step(lease, Stage.ENCODE, 1, 1)
    for step in range(1, 21):
        scene.wait(1, heartbeats_of=["a"])
        scene.step(lease, Stage.DENOISE, step, 20)
    scene.finish(lease)
    lease = scene.start(scene.job(large))
    scene.step(lease, Stage.ENCODE, 1, 1)
    send_heartbeats(scene, 600, Stage.DENOISE, 21)


def test_the_work_of_a_step_depends_on_the_tokens_of_a_rank() -> None:
    shape = GroupShape(world_size=8, num_heads=40)
    large = replace(SPEC, image_size="1280*720", num_frames=81)
    split, alone = (
        step_work(replace(large, cfg_size=cfg_size, ulysses_size=ulysses_size), shape)
        for cfg_size, ulysses_size in ((2, 4), (1, 1))
    )
    assert alone == 8 * split
    # 720p has 2.3 times the tokens of 480p, and attention grows with their square.
    small = step_work(replace(large, image_size="832*480", cfg_size=2, ulysses_size=4), shape)
    assert 3.5 < split / small < 5.3


def test_skipped_steps_do_not_make_the_next_computed_one_count_as_a_hang() -> None:
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.step(lease, Stage.ENCODE, 1, 1)
    skipped = tuple(range(2, 18))
    for step in range(1, 19):
        is_skipped = step - 1 in skipped
        if not is_skipped:
            send_heartbeats(scene, 55, Stage.DENOISE, step)
        scene.step(lease, Stage.DENOISE, step, 20, skipped_steps=skipped)
    send_heartbeats(scene, 100, Stage.DENOISE, 19)


def test_a_step_after_the_end_of_guidance_is_half_the_work() -> None:
    shape = GroupShape(world_size=8, num_heads=40)
    spec = replace(SPEC, infer_steps=20, guidance_end=0.5)
    for sizes in ((2, 4), (1, 8), (1, 1)):
        apart = replace(spec, cfg_size=sizes[0], ulysses_size=sizes[1])
        assert step_work(apart, shape, 9) == 2 * step_work(apart, shape, 10)
    # 12 heads do not divide among 8 ranks: both branches compute the same.
    indivisible = replace(spec, cfg_size=2, ulysses_size=4)
    few_heads = GroupShape(world_size=8, num_heads=12)
    assert step_work(indivisible, few_heads, 9) == step_work(indivisible, few_heads, 10)


def test_idle_ranks_may_idle_forever() -> None:
    scene = Scene()
    scene.group()
    send_heartbeats(scene, 4000, Stage.IDLE, 3)


def test_time_in_which_the_broker_slept_does_not_count_against_the_ranks() -> None:
    scene = Scene()
    scene.group()
    scene.start(scene.job())
    send_heartbeats(scene, 5, Stage.DENOISE, 1)
    scene.now_s += 3600.0
    assert not kill_commands(scene.dispatcher.tick(scene.now_s))
    send_heartbeats(scene, 5, Stage.DENOISE, 1)


def test_a_heartbeat_of_another_life_does_not_count() -> None:
    scene = Scene()
    scene.group(epoch=2)
    for _ in range(10):
        scene.now_s += 1.0
        scene.heartbeat("a", epoch=1)
        assert not kill_commands(scene.dispatcher.tick(scene.now_s))
    assert kill_commands(scene.wait(1))


def test_health_shows_each_rank_and_is_not_ready_after_five_seconds_without_heartbeats() -> None:
    scene = Scene()
    scene.group()
    scene.heartbeat("a")
    health = scene.dispatcher.health()
    assert health.ready
    (group,) = health.groups
    assert [row.rank for row in group.ranks] == list(range(8))
    scene.wait(5)
    assert scene.dispatcher.health().ready
    scene.wait(1)
    assert not scene.dispatcher.health().ready
    assert scene.dispatcher.health().groups[0].ranks[0].beat_age_s == 6.0
    scene.now_s += 0.5
    scene.heartbeat("a")
    assert scene.dispatcher.health().groups[0].ranks[0].beat_age_s == 0.0  # not -0.5


def test_health_counts_restarts() -> None:
    scene = Scene()
    for epoch in (1, 2, 3):
        scene.group(epoch=epoch)
        scene.lose_group(epoch=epoch)
    (group,) = scene.dispatcher.health().groups
    assert (group.restarts, group.ready, group.epoch) == (2, False, 3)
