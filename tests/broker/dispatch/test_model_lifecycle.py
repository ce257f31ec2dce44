"""Several models on one queue: matching, the default, models that are away, and conflicts."""

import shutil
from pathlib import Path

import pytest
from msgspec import structs

from broker.dispatch.commands import Command, DropInput, DropModel, SaveModel, WatchersChanged
from broker.dispatch.pace import ATTEMPT_STAGES
from broker.journal.journal import Journal
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import RunJob
from broker.wire.group_reports import DrainGroup, JobFinished, JobStarted
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobState
from broker.wire.lora import KnownLora, LoraChoice
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import JobFound, Refused
from broker.wire.requests import DeleteJob, SubmitJob
from tests.broker.dispatch.scene import Scene, find, reply, run_commands
from tests.broker.driver import IMAGE, SHAPE, SPEC

DATA = Path(__file__).parents[2] / "data"
LOST_S = 30.0
KEPT_S = 60.0
LAST_IMAGE = f"{1:064x}.ppm"


def shape_of(name: str, content_hash: str = "", **limits: object) -> GroupShape:
    model = structs.replace(ModelProfile(name=name, content_hash=content_hash), **limits)
    return structs.replace(SHAPE, model=model)


CAT, DOG = shape_of("cat", "c1"), shape_of("dog", "d1", max_steps=30)
FOR_DOG = structs.replace(SPEC, model="dog")


def both() -> Scene:
    scene = Scene(shapes=(CAT, DOG))
    scene.group("a", shape=CAT)
    scene.group("b", shape=DOG)
    return scene


def refusal(commands: list[Command]) -> Refused:
    answer = reply(commands)
    assert isinstance(answer, Refused), answer
    return answer


def only_run(commands: list[Command]) -> RunJob:
    (run,) = run_commands(commands)
    return run


# --- matching ------------------------------------------------------------------------------------


def test_each_job_goes_to_a_group_with_its_model() -> None:
    scene = both()
    unnamed, named = scene.job(), scene.job(FOR_DOG)
    assert (scene.lease(unnamed).group, scene.lease(named).group) == ("a", "b")


def test_a_job_that_names_no_model_gets_the_default_one() -> None:
    scene = Scene(shapes=(CAT, DOG), default_model="dog")
    job_id = scene.job()
    assert scene.journal[job_id].spec.model == "dog"


def test_a_message_is_a_repeat_although_its_job_got_the_default_model() -> None:
    scene = both()
    job_id = scene.job()
    answer = reply(scene.handle(SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE)))
    assert isinstance(answer, JobFound)


def test_a_job_for_an_unknown_model_is_refused_with_the_list() -> None:
    _, commands = both().submit(structs.replace(SPEC, model="cow"))
    answer = refusal(commands)
    assert (answer.code, answer.field) == (ErrorCode.UNKNOWN_MODEL, "model")
    assert answer.message == "model is cow; this server serves cat, dog"


def test_a_job_is_checked_against_the_limits_of_its_own_model() -> None:
    scene = both()
    slow = structs.replace(SPEC, infer_steps=40)
    scene.job(slow)
    _, commands = scene.submit(structs.replace(slow, model="dog"))
    answer = refusal(commands)
    assert (answer.code, answer.field) == (ErrorCode.INVALID_FIELD, "infer_steps")


def test_a_job_keeps_the_hashes_that_its_loras_had_when_it_was_accepted() -> None:
    """The group compares them with its files: another file is never used in silence."""
    lora = KnownLora(name="film", hashes=("1" * 64,))
    shape = shape_of("cat", "c1", loras=(lora, KnownLora(name="ink", hashes=("3" * 64,))))
    scene = Scene(shapes=(shape,))
    spec = structs.replace(SPEC, loras=(LoraChoice(name="film"),))
    job_id, _ = scene.submit(spec)
    changed = structs.replace(lora, hashes=("2" * 64,))
    model = structs.replace(shape.model, loras=(changed,))
    run = only_run(scene.group("a", shape=structs.replace(shape, model=model)))
    assert run.lora_hashes == {"film": ("1" * 64,)}
    assert scene.view(job_id).lora_hashes == run.lora_hashes


def test_a_lora_that_the_model_does_not_have_is_refused_with_the_list() -> None:
    film, ink = (KnownLora(name=name, hashes=("1" * 64,)) for name in ("film", "ink"))
    scene = Scene(shapes=(shape_of("cat", "c1", loras=(film, ink)), DOG))
    spec = structs.replace(SPEC, loras=(LoraChoice(name="oil"),))
    _, commands = scene.submit(spec)
    answer = refusal(commands)
    assert (answer.code, answer.field) == (ErrorCode.INVALID_FIELD, "loras")
    assert answer.message == "loras names oil, which cat does not have; it has film, ink"
    _, commands = scene.submit(structs.replace(spec, model="dog"))
    assert refusal(commands).message.endswith("it has none: the server needs --loras")


def test_jobs_of_one_model_do_not_wait_for_those_of_another() -> None:
    scene = both()
    scene.job()
    waiting = scene.job()
    assert scene.lease(scene.job(FOR_DOG)).group == "b"
    assert scene.view(waiting).state is JobState.IN_QUEUE


def test_a_job_has_the_hash_of_the_model_that_runs_it() -> None:
    scene = both()
    job_id = scene.job(FOR_DOG)
    lease = scene.start(job_id)
    scene.finish(lease)
    assert scene.view(job_id).model_hash == "d1"


# --- groups that are away ------------------------------------------------------------------------


def test_a_job_says_that_it_waits_for_a_group_with_its_model() -> None:
    scene = both()
    scene.lose_group("b")
    job_id = scene.job(FOR_DOG)
    assert scene.view(job_id).reason == "waits for a group with model dog"
    assert scene.dispatcher.waiting_reason(job_id) == "waits for a group with model dog"
    scene.group("b", epoch=2, shape=DOG)
    assert scene.view(job_id).state is JobState.IN_PROGRESS
    assert scene.view(job_id).reason is None


def test_a_watched_job_is_published_when_the_last_group_of_its_model_goes_and_comes() -> None:
    scene = both()
    scene.start(scene.job(FOR_DOG))
    watched = scene.job(FOR_DOG)
    scene.handle(WatchersChanged(watched, True))
    assert scene.view(watched).reason is None
    scene.handle(DrainGroup(group="b", epoch=1))  # nothing else changes: its job goes on
    assert scene.view(watched).reason == "waits for a group with model dog"
    scene.group("d", shape=DOG)
    assert scene.view(watched).reason is None


def test_the_models_are_listed_with_their_groups_and_jobs() -> None:
    scene = both()
    scene.lose_group("b")
    scene.job(FOR_DOG)
    found = scene.dispatcher.models()
    listed = [
        (view.profile.name, view.num_ready_groups, view.num_waiting_jobs) for view in found.models
    ]
    assert (listed, found.default) == ([("cat", 1, 0), ("dog", 0, 1)], "cat")


def test_the_estimate_counts_only_jobs_and_groups_of_the_same_model() -> None:
    scene = both()
    lease = scene.start(scene.job())
    for stage in ATTEMPT_STAGES:
        for step in (1, 2):
            scene.now_s += 2.0
            scene.step(lease, stage, step, 2)
    first = scene.job()
    scene.job(FOR_DOG)
    for_dog = scene.job(FOR_DOG)
    assert scene.dispatcher.eta_s(first, scene.now_s) is not None
    assert scene.dispatcher.eta_s(for_dog, scene.now_s) is None, "no step of it was measured"


# --- groups that join ----------------------------------------------------------------------------


def test_the_models_of_joined_groups_become_known_and_are_saved() -> None:
    scene = Scene(is_open=True)
    (saved,) = find(scene.group("far", shape=DOG), SaveModel)
    assert saved.profile == DOG.model
    assert scene.dispatcher.models().default == "dog"
    assert not find(scene.group("further", shape=DOG), SaveModel)


def test_a_job_from_before_any_model_was_known_gets_the_first_one() -> None:
    scene = Scene(is_open=True)
    early = scene.job()
    assert scene.journal[early].spec.model is None
    run = only_run(scene.group("far", shape=DOG))
    assert (run.lease.job_id, run.spec.model) == (early, "dog")
    assert scene.journal[early].spec.model == "dog"


def test_a_job_for_a_known_model_is_accepted_after_a_restart_before_its_group_is_back() -> None:
    scene = Scene(is_open=True, models=[CAT.model, DOG.model])
    scene.wait(LOST_S + 1)
    scene.group("near", shape=CAT)
    job_id = scene.job(FOR_DOG)
    assert scene.view(job_id).reason == "waits for a group with model dog"
    _, commands = scene.submit(structs.replace(FOR_DOG, infer_steps=40))
    assert refusal(commands).field == "infer_steps"
    run = only_run(scene.group("far", shape=DOG))
    assert run.lease.job_id == job_id


def test_a_joined_model_that_is_away_for_long_is_forgotten_unless_jobs_wait_for_it() -> None:
    scene = Scene(is_open=True, models=[CAT.model, DOG.model], models_kept_s=KEPT_S)
    job_id = scene.job(FOR_DOG)
    dropped = find(scene.wait(KEPT_S + 2), DropModel)
    assert [drop.name for drop in dropped] == ["cat"]
    scene.cancel(job_id)
    dropped = find(scene.wait(KEPT_S + 2), DropModel)
    assert [drop.name for drop in dropped] == ["dog"]


def test_a_server_without_listen_forgets_models_that_it_does_not_start_any_more() -> None:
    scene = Scene(shapes=(CAT,), models=[CAT.model, DOG.model])
    assert [drop.name for drop in find(scene.tick(), DropModel)] == ["dog"]
    _, commands = scene.submit(FOR_DOG)
    assert refusal(commands).code is ErrorCode.UNKNOWN_MODEL


# --- conflicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [shape_of("dog", "d2", max_steps=30), shape_of("dog", "d1")], ids=("weights", "limits")
)
def test_a_group_with_another_model_of_the_same_name_gets_no_jobs(
    other: GroupShape, caplog: pytest.LogCaptureFixture
) -> None:
    scene = both()
    scene.group("far", shape=other)
    scene.start(scene.job(FOR_DOG))
    waiting = scene.job(FOR_DOG)
    assert scene.view(waiting).state is JobState.IN_QUEUE
    assert "group far gets no jobs: its model dog is not that of group b (" in caplog.text
    assert [view.num_ready_groups for view in scene.dispatcher.models().models] == [1, 1]


def test_a_group_that_was_set_aside_serves_once_the_other_model_is_gone() -> None:
    scene = both()
    scene.group("far", shape=shape_of("dog", "d2"))
    scene.lose_group("b")
    job_id = scene.job(FOR_DOG)
    commands = scene.group("far", shape=shape_of("dog", "d2"))
    assert only_run(commands).lease.job_id == job_id
    assert [saved.profile.content_hash for saved in find(commands, SaveModel)] == ["d2"]


# --- the last image ------------------------------------------------------------------------------


def test_a_job_takes_its_last_image_to_the_group_and_keeps_it_until_it_is_removed() -> None:
    scene = Scene(shapes=(shape_of("cat", last_image="optional"),))
    scene.group(shape=shape_of("cat", last_image="optional"))
    job_id, commands = scene.submit(last_image=LAST_IMAGE)
    run = only_run(commands)
    assert (run.image, run.last_image) == (IMAGE, LAST_IMAGE)
    assert scene.dispatcher.uses_image(LAST_IMAGE)
    scene.handle(JobStarted(lease=run.lease))
    assert find(scene.cancel(job_id), DropInput) == []
    commands = scene.handle(DeleteJob(job_id=job_id))
    assert {drop.image for drop in find(commands, DropInput)} == {IMAGE, LAST_IMAGE}
    scene.handle(JobFinished(lease=run.lease, video="x.mp4"))


@pytest.mark.parametrize(
    ("takes", "last_image", "message"),
    [
        ("none", LAST_IMAGE, "last_image is given; cat takes none"),
        ("required", None, "last_image is missing; cat needs the video's last frame"),
    ],
)
def test_a_last_image_that_the_model_does_not_take_is_refused(
    takes: str, last_image: str | None, message: str
) -> None:
    scene = Scene(shapes=(shape_of("cat", last_image=takes),))
    answer = refusal(scene.submit(last_image=last_image)[1])
    assert (answer.field, answer.message) == ("last_image", message)


def test_the_same_id_with_another_last_image_is_another_job() -> None:
    scene = Scene(shapes=(shape_of("cat", last_image="optional"),))
    job_id, _ = scene.submit(last_image=LAST_IMAGE)
    commands = scene.handle(SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE))
    assert refusal(commands).message == "this id belongs to another job"


# --- earlier versions ----------------------------------------------------------------------------


def test_jobs_of_the_version_before_get_the_default_model(tmp_path: Path) -> None:
    """The file comes from the last version without models: jobs 1 and 4 wait, 2 runs, 3 ended."""
    shutil.copy(DATA / "journal-schema-7.sqlite3", tmp_path / "jobs.sqlite3")
    journal = Journal(tmp_path / "jobs.sqlite3")
    assert journal.load_models() == []
    scene = Scene(journal.load(), shapes=(CAT, DOG), default_model="dog")
    scene.tick()
    models = [job.spec.model for job in scene.journal.values()]
    assert models == ["dog", "dog", None, "dog"], "an ended job does not change"
    assert [job.spec.model for job in scene.dispatcher.jobs()] == models
    run = only_run(scene.group("b", shape=DOG))
    assert (run.lease.job_id, run.spec.model) == (f"{1:032x}", "dog")
    journal.write([*scene.journal.values()][:2])
    journal.close()
