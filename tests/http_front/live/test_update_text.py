import msgspec

from broker.wire.job import JobSpec, JobState
from broker.wire.job_view import JobView
from broker.wire.model_profile import ModelProfile
from http_front.live.update_text import UpdateText
from http_front.video.job_status import JobUpdate

SPEC = JobSpec(prompt="a boat on a lake", num_frames=121)
PROFILE = ModelProfile(trained_frames=81)


def change(seq: int) -> JobView:
    return JobView(
        job_id="a" * 32, seq=seq, state=JobState.IN_PROGRESS, created_at=1.0, updated_at=1.0
    )


def test_an_event_becomes_text_once_for_all_its_watchers() -> None:
    texts, event = UpdateText(), change(seq=3)
    first = texts.of(event, SPEC, PROFILE)
    assert texts.of(event, SPEC, PROFILE) is first
    assert msgspec.json.decode(first, type=JobUpdate).seq == 3


def test_the_next_change_and_that_of_another_job_have_texts_of_their_own() -> None:
    texts, event = UpdateText(), change(seq=3)
    other = msgspec.structs.replace(event, job_id="b" * 32)
    found = [
        msgspec.json.decode(texts.of(job, SPEC, PROFILE), type=JobUpdate)
        for job in (event, change(seq=4), other, event)
    ]
    assert [(update.requestId[0], update.seq) for update in found] == [
        ("a", 3),
        ("a", 4),
        ("b", 3),
        ("a", 3),
    ]


def test_a_watcher_that_knows_another_profile_gets_its_notice() -> None:
    texts, event = UpdateText(), change(seq=3)
    profiles = (PROFILE, msgspec.structs.replace(PROFILE, trained_frames=121))
    long, trained = (
        msgspec.json.decode(texts.of(event, SPEC, profile), type=JobUpdate) for profile in profiles
    )
    assert long.notice is not None
    assert trained.notice is None
