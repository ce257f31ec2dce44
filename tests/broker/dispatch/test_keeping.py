"""Which videos stay: kept ones whatever their age, and the oldest others go first."""

from broker.dispatch.commands import Command, DropInput, DropJob, SaveKept, SpaceLow
from broker.dispatch.gone_jobs import BY_AGE, FOR_ROOM, UNKNOWN_JOB
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.job_view import JobView
from broker.wire.replies import JobDeleted, JobFound, Refused
from broker.wire.requests import CancelJob, DeleteJob, KeepJob
from tests.broker.dispatch.scene import START_S, Scene, find, reply

HOUR_S, DAY_S = 3600.0, 86_400.0


def test_a_kept_video_does_not_expire_and_one_that_is_let_go_expires_as_if_it_ended_now() -> None:
    scene = Scene(job_ttl_s=10)
    job_id = finished(scene)
    kept = view_of(keep(scene, job_id))
    assert (kept.kept, kept.expires_at) == (True, None)
    assert find(scene.wait(100, heartbeats_of="a"), DropJob) == []
    released = view_of(keep(scene, job_id, keep=False))
    assert (released.kept, released.expires_at) == (False, scene.now_s + 10)
    assert find(scene.wait(9, heartbeats_of="a"), DropJob) == []
    assert find(scene.wait(2, heartbeats_of="a"), DropJob) == [DropJob(job_id)]


def test_letting_go_of_a_video_that_is_not_kept_changes_nothing() -> None:
    scene = Scene(job_ttl_s=10)
    job_id = finished(scene)
    expires_at = scene.now_s + 10
    scene.wait(5, heartbeats_of="a")
    assert view_of(keep(scene, job_id, keep=False)).expires_at == expires_at


def test_an_owner_keeps_a_limited_number_of_videos() -> None:
    scene = Scene(keep_limit=2)
    first, second, third = (finished(scene, owner="ann") for _ in range(3))
    for job_id in (first, second, first):  # to keep one twice changes nothing
        assert isinstance(reply(keep(scene, job_id)), JobFound)
    refused = refusal(keep(scene, third))
    assert refused.code is ErrorCode.KEEP_LIMIT
    assert "2 videos are kept, and this server keeps at most 2" in refused.message
    assert isinstance(reply(keep(scene, finished(scene, owner="bob"))), JobFound)
    keep(scene, first, keep=False)
    assert isinstance(reply(keep(scene, third)), JobFound)


def test_a_kept_video_is_deleted_by_hand_and_frees_its_place() -> None:
    scene = Scene(keep_limit=1)
    first, second = finished(scene), finished(scene)
    keep(scene, first)
    assert reply(scene.handle(DeleteJob(job_id=first))) == JobDeleted()
    assert isinstance(reply(keep(scene, second)), JobFound)


def test_only_a_job_with_a_video_is_kept() -> None:
    scene = Scene()
    waiting = scene.job()
    assert "the job is InQueue" in refusal(keep(scene, waiting)).message
    scene.handle(CancelJob(job_id=waiting))
    assert "the job is Cancelled" in refusal(keep(scene, waiting)).message


def test_another_owner_keeps_nothing() -> None:
    scene = Scene()
    job_id = finished(scene, owner="ann")
    assert reply(scene.handle(KeepJob(job_id=job_id, keep=True, owner="bob"))) == UNKNOWN_JOB


def test_what_is_kept_outlives_a_restart_and_so_does_the_time_since_it_is_not() -> None:
    scene = Scene(job_ttl_s=DAY_S)
    kept, released, plain = (finished(scene) for _ in range(3))
    scene.now_s += DAY_S / 2
    commands = [*keep(scene, kept), *keep(scene, released), *keep(scene, released, keep=False)]
    marks = {command.number: command.let_go_at for command in find(commands, SaveKept)}
    later = Scene(
        restored=list(scene.journal.values()),
        kept=marks,
        job_ttl_s=DAY_S,
        now_s=START_S + 1.25 * DAY_S,
    )
    dropped = find(later.wait(700), DropJob)
    assert {command.job_id for command in dropped} == {plain}
    later.now_s += DAY_S
    assert find(later.tick(), DropJob) == [DropJob(released)]
    assert set(later.journal) == {kept}


def test_a_full_disk_loses_its_oldest_videos_first_but_none_that_is_kept_or_new() -> None:
    scene = Scene(job_ttl_s=7 * DAY_S)
    kept, *old = (finished(scene) for _ in range(7))
    keep(scene, kept)
    cancelled, _ = scene.submit(image=f"{1:064x}.webp")
    scene.handle(CancelJob(job_id=cancelled))
    assert find(scene.handle(SpaceLow()), DropInput) == [DropInput(f"{1:064x}.webp")]
    assert find(scene.handle(SpaceLow()), DropJob) == [], "a client may be about to fetch them"
    scene.now_s += HOUR_S
    scene.group("b")
    new = finished(scene)
    assert find(scene.handle(SpaceLow()), DropJob) == [DropJob(job_id) for job_id in old[:5]]
    assert find(scene.handle(SpaceLow()), DropJob) == [DropJob(old[5])]
    assert find(scene.handle(SpaceLow()), DropJob) == []
    assert set(scene.journal) == {kept, cancelled, new}
    assert reply(scene.handle(DeleteJob(job_id=old[0]))) == FOR_ROOM


def test_an_expired_job_is_told_from_an_unknown_one_but_not_to_another_owner() -> None:
    scene = Scene(job_ttl_s=1)
    job_id = finished(scene, owner="ann")
    scene.wait(2, heartbeats_of="a")
    assert scene.dispatcher.refusal(job_id, "ann") == BY_AGE
    assert scene.dispatcher.refusal(job_id, None) == BY_AGE
    assert scene.dispatcher.refusal(job_id, "bob") == UNKNOWN_JOB
    assert reply(keep(scene, job_id)) == BY_AGE


def finished(scene: Scene, owner: str | None = None) -> str:
    if not list(scene.dispatcher.groups()):
        scene.group()
    job_id = scene.job(owner=owner)
    scene.finish(scene.start(job_id))
    assert scene.journal[job_id].state is JobState.SUCCEED
    return job_id


def keep(scene: Scene, job_id: str, keep: bool = True) -> list[Command]:
    return scene.handle(KeepJob(job_id=job_id, keep=keep))


def view_of(commands: list[Command]) -> JobView:
    found = reply(commands)
    assert isinstance(found, JobFound), found
    return found.job


def refusal(commands: list[Command]) -> Refused:
    refused = reply(commands)
    assert isinstance(refused, Refused), refused
    return refused
