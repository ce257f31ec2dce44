"""Jobs on their way to the journal: found by key and image, at the same cost however many."""

from broker.dispatch.commands import Command, DropInput, JobRefused
from broker.wire.errors import ErrorCode
from broker.wire.replies import JobAcceptable, Refused
from broker.wire.requests import IdempotencyKey, OfferJob, SubmitJob
from tests.broker.dispatch.scene import CLIENT, FULL, Scene, find, reply
from tests.broker.dispatch.test_sorted_queue import num_calls
from tests.broker.driver import SPEC


def arriving(number: int, share: int | None = None) -> SubmitJob:
    return SubmitJob(
        job_id=f"{number:032x}",
        spec=SPEC,
        image=f"{number:064x}.webp",
        idempotency_key=IdempotencyKey(key=f"key-{number}", request_hash="0" * 64),
        owner="ann",
        queue_share=share,
    )


def arrive(scene: Scene, submit: SubmitJob) -> list[Command]:
    """Hand a submit to the dispatcher, without the journal's answer."""
    return scene.dispatcher.handle(submit, scene.now_s, CLIENT)


def test_a_submit_costs_the_same_however_many_jobs_arrive_with_it() -> None:
    def cost(num_arriving: int) -> int:
        scene = Scene(max_queue=1000)
        for number in range(num_arriving):
            arrive(scene, arriving(number, share=1000))
        return num_calls(lambda: arrive(scene, arriving(num_arriving, share=1000)))

    assert cost(500) == cost(5)


def test_jobs_that_arrive_count_for_their_owners_share_until_the_journal_refuses_them() -> None:
    scene = Scene()
    arrive(scene, arriving(1, share=1))
    refused = reply(arrive(scene, arriving(2, share=1)))
    assert isinstance(refused, Refused)
    assert refused.code is ErrorCode.QUEUE_FULL
    scene.dispatcher.handle(JobRefused(arriving(1).job_id, FULL), scene.now_s)
    assert scene.dispatcher.has_arriving_jobs is False
    assert find(arrive(scene, arriving(2, share=1)), DropInput) == []


def test_the_key_of_an_arriving_job_is_known_until_the_journal_refuses_it() -> None:
    scene = Scene()
    submit = arriving(1)
    arrive(scene, submit)
    offer = OfferJob(
        spec=SPEC,
        owner="ann",
        idempotency_key=IdempotencyKey(key="key-1", request_hash="1" * 64),
    )
    answer = reply(scene.dispatcher.handle(offer, scene.now_s, CLIENT))
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.IDEMPOTENCY_KEY_REUSE
    scene.dispatcher.handle(JobRefused(submit.job_id, FULL), scene.now_s)
    answer = reply(scene.dispatcher.handle(offer, scene.now_s, CLIENT))
    assert isinstance(answer, JobAcceptable)


def test_an_image_stays_until_the_last_job_that_arrives_with_it_is_refused() -> None:
    scene = Scene()
    first, second = arriving(1), arriving(2)
    shared = SubmitJob(job_id=second.job_id, spec=SPEC, image=first.image)
    arrive(scene, first)
    arrive(scene, shared)
    refuse = scene.dispatcher.handle(JobRefused(first.job_id, FULL), scene.now_s)
    assert find(refuse, DropInput) == []
    refuse = scene.dispatcher.handle(JobRefused(shared.job_id, FULL), scene.now_s)
    assert find(refuse, DropInput) == [DropInput(first.image)]
