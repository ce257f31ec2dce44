"""The list of jobs, the deletion of a job, and the stills of its video."""

import pytest

from broker.wire.job import JobState
from broker.wire.requests import ListJobs
from tests.http_front.full_stack import Stack
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import PROMPT, Served


async def test_jobs_are_listed_newest_first_with_their_settings(
    front: Served, broker: ScriptedBroker
) -> None:
    first, second = await front.submit(), await front.submit()
    await broker.change(first, spec=broker.specs[first], expires_at=12.5)
    status, answer = await front.get("/video/list")
    assert status == 200
    assert [job["requestId"] for job in answer["jobs"]] == [second, first]
    assert answer["has_more"] is False
    entry = answer["jobs"][1]
    assert entry["settings"]["prompt"] == PROMPT
    assert (entry["status"], entry["expires_at"]) == ("InQueue", 12.5)


async def test_a_page_continues_after_the_given_job(front: Served, broker: ScriptedBroker) -> None:
    job_id, second, _ = [await front.submit() for _ in range(3)]
    _, answer = await front.get(f"/video/list?limit=1&after={job_id}&order=asc")
    assert [job["requestId"] for job in answer["jobs"]] == [second]
    assert answer["has_more"] is True
    assert broker.asked[-1] == ListJobs(limit=1, after=job_id, oldest_first=True)


async def test_jobs_are_selected_by_their_state(stack: Stack) -> None:
    stack.group.hold.clear()
    first, second, third = [await stack.submit() for _ in range(3)]
    await stack.client.cancel(second)
    for path, ids in (
        ("/video/list?status=Cancelled", [second]),
        ("/video/list/?status=inqueue,inprogress&limit=1", [third]),
        (f"/video/list?status=InQueue,InProgress&after={second}", [first]),
        ("/video/list?status=Succeed", []),
    ):
        status, page = await stack.front.get(path)
        assert (status, [job["requestId"] for job in page["jobs"]]) == (200, ids), path
    _, page = await stack.front.get("/v1/videos?status=failed")
    assert [video["id"] for video in page["data"]] == [second]


async def test_jobs_are_selected_by_words_and_whether_they_are_kept(stack: Stack) -> None:
    prompts = ("A white Swan swims", "A boat goes by", "A bird flies by")
    swan, boat, bird = [await stack.submit(prompt) for prompt in prompts]
    for job_id in (swan, boat, bird):
        await stack.end_of(job_id)
    await stack.front.post("/video/keep", {"requestId": boat, "keep": True})
    for query, ids in (
        ("search=swan%20WHITE", [swan]),
        ("search=swan%20boat", []),
        (f"search={boat}", [boat]),
        ("search=", [bird, boat, swan]),
        ("search=by&limit=1", [bird]),
        (f"search=by&after={bird}", [boat]),
        ("kept=true", [boat]),
        ("kept=FALSE&limit=1", [bird]),
    ):
        status, page = await stack.front.get(f"/video/list?{query}")
        assert (status, [job["requestId"] for job in page["jobs"]]) == (200, ids), query
    _, page = await stack.front.get("/v1/videos?kept=true")
    assert [video["id"] for video in page["data"]] == [boat]


@pytest.mark.parametrize(
    ("query", "field", "status"),
    [
        ("kept=perhaps", "kept", 422),
        (f"search={'x' * 201}", "search", 422),
        ("status=done", "status", 422),
        ("status=", "status", 422),
        ("limit=0", "limit", 422),
        ("limit=101", "limit", 422),
        ("limit=ten", "limit", 422),
        ("order=up", "order", 422),
        ("after=nothing", "after", 404),
    ],
)
async def test_an_invalid_query_is_refused(
    front: Served, query: str, field: str, status: int
) -> None:
    found, answer = await front.get(f"/video/list?{query}")
    assert (found, answer["error"]["field"]) == (status, field)


async def test_a_deleted_job_is_no_longer_found(front: Served) -> None:
    job_id = await front.submit()
    assert await front.post("/video/delete", {"requestId": job_id}) == (200, {"deleted": True})
    for path in ("/video/delete", "/video/status"):
        status, answer = await front.post(path, {"requestId": job_id})
        assert (status, answer["error"]["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("ending", [".webp", ".sprites.webp"])
async def test_stills_are_served_once_they_exist(
    front: Served, broker: ScriptedBroker, ending: str
) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.SUCCEED, video=f"{job_id}.mp4")
    status, _ = await front.get(f"/videos/{job_id}{ending}")
    assert status == 404
    (front.videos / f"{job_id}{ending}").write_bytes(b"RIFF")
    async with front.session.get(f"{front.url}/videos/{job_id}{ending}") as response:
        assert response.content_type == "image/webp"
        assert await response.read() == b"RIFF"
