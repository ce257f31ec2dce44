"""Videos that are kept, and how others expire."""

import json
from collections.abc import Callable

from broker.dispatch.gone_jobs import BY_AGE
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import FrontReply, Refused
from broker.wire.requests import FrontRequest, GetJob, KeepJob
from tests.http_front.full_stack import Stack
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served

LIMIT = "20 videos are kept, and this server keeps at most 20 for each user"


async def test_a_video_is_kept_and_let_go(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.SUCCEED, video=f"{job_id}.mp4")
    assert await front.post("/video/keep", {"requestId": job_id}) == (
        200,
        {"kept": True, "expires_at": None},
    )
    _, status = await front.post("/video/status", {"requestId": job_id})
    assert (status["kept"], status["expires_at"]) == (True, None)
    await broker.change(job_id, expires_at=7.5)
    body = {"requestId": job_id, "keep": False}
    assert await front.post("/video/keep", body) == (200, {"kept": False, "expires_at": 7.5})
    assert broker.asked[-1] == KeepJob(job_id=job_id, keep=False)


async def test_a_refusal_says_how_many_are_kept(front: Served, broker: ScriptedBroker) -> None:
    broker.script = refusing(KeepJob, Refused(code=ErrorCode.KEEP_LIMIT, message=LIMIT))
    status, answer = await front.post("/video/keep", {"requestId": "0" * 32})
    assert (status, answer["error"]["code"]) == (409, "keep_limit")
    assert answer["error"]["message"] == LIMIT


async def test_an_expired_job_is_told_on_every_route(front: Served, broker: ScriptedBroker) -> None:
    broker.script = refusing(GetJob, BY_AGE)
    job_id = "0" * 32
    answers = [
        await front.post("/video/status", {"requestId": job_id}),
        *[await front.get(f"/videos/{job_id}{ending}") for ending in (".mp4", ".input.webp")],
        await front.get(f"/v1/videos/{job_id}"),
    ]
    for status, answer in answers:
        assert (status, answer["error"]["code"]) == (404, "job_expired")
        assert answer["error"]["message"].startswith("the job has expired")


async def test_wan_keeps_a_video_of_a_real_broker(stack: Stack) -> None:
    job_id = await stack.submit()
    async for _ in stack.client.watch(job_id):
        pass
    assert (await stack.client.status(job_id)).expires_at is not None
    code, out, err = await stack.wan("keep", job_id, "--json")
    assert (code, json.loads(out), err) == (0, {"kept": True, "expires_at": None}, "")
    status = await stack.client.status(job_id)
    assert (status.kept, status.expires_at) == (True, None)
    code, out, _ = await stack.wan("keep", job_id, "--off")
    assert (code, out[:7]) == (0, "expires")


def refusing(kind: type, refusal: Refused) -> Callable[[FrontRequest], FrontReply | None]:
    return lambda request: refusal if isinstance(request, kind) else None
