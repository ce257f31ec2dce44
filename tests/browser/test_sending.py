"""Sending the form: no video is made twice because an answer was lost."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Locator, expect

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from tests.browser.form_scene import FormScene, fill, send
from tests.browser.relay import relay
from tests.browser.visit import Visit, open_visit

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

SUBMIT = "/video/submit"
UNREACHABLE = {"en-GB": "cannot be reached", "zh-CN": "无法连接"}


@contextlib.asynccontextmanager
async def lossy(
    chromium: Browser, scene: FormScene, lost: dict[str, int], locale: str = "en-GB"
) -> AsyncIterator[Visit]:
    """A page behind a proxy that loses answers."""
    async with (
        relay(scene.front.url, lost=lost) as port,
        open_visit(chromium, f"http://localhost:{port}", locale=locale) as visit,
    ):
        yield visit


def alert(visit: Visit) -> Locator:
    return visit.page.locator("#problem")


@pytest.mark.parametrize("locale", UNREACHABLE)
async def test_a_form_whose_answer_was_lost_is_sent_again_under_its_key(
    chromium: Browser, scene: FormScene, locale: str
) -> None:
    async with lossy(chromium, scene, {SUBMIT: 1}, locale) as visit:
        await fill(visit)
        await visit.page.click("#submit")
        await expect(alert(visit)).to_contain_text(UNREACHABLE[locale])
        await send(visit, 1)
        await send(visit, 1)
    first, again, other = scene.keys
    assert first is not None
    assert again == first, "the same key, seed and picture"
    assert other is not None
    assert other.key != first.key


async def test_a_changed_form_makes_another_video_after_a_lost_answer(
    chromium: Browser, scene: FormScene
) -> None:
    async with lossy(chromium, scene, {SUBMIT: 1}) as visit:
        await fill(visit)
        await visit.page.click("#submit")
        await expect(alert(visit)).to_be_visible()
        await visit.page.fill("#prompt", "The boat turns around and sails back")
        await send(visit, 1)
    assert len({key and key.key for key in scene.keys}) == 2


async def test_of_several_videos_those_without_an_answer_are_sent_again(
    chromium: Browser, scene: FormScene
) -> None:
    lost = {SUBMIT: 0}
    async with lossy(chromium, scene, lost) as visit:
        await fill(visit)
        await visit.page.locator("#takes label").nth(1).click()
        scene.broker.script = lambda _request: lost.update({SUBMIT: int(len(scene.specs) == 1)})
        await visit.page.click("#submit")
        await expect(alert(visit)).to_contain_text("1 of 2 videos")
        lost[SUBMIT] = 0
        scene.broker.script = lambda _request: None
        await send(visit, 1)
    assert sorted(Counter(key and key.key for key in scene.keys).values()) == [1, 2]


async def test_a_failed_video_is_tried_again_once_although_the_answer_was_lost(
    chromium: Browser, scene: FormScene
) -> None:
    lost = {SUBMIT: 0}
    async with lossy(chromium, scene, lost) as visit:
        await fill(visit)
        await send(visit)
        (job_id,) = scene.broker.specs
        await scene.broker.change(job_id, state=JobState.FAILED, error_code=ErrorCode.GROUP_LOST)
        lost[SUBMIT] = 1
        retry = visit.page.locator(f"[data-job='{job_id}']").get_by_role("button", name="Try again")
        await retry.click()
        await expect(visit.page.locator("#toasts")).to_contain_text(UNREACHABLE["en-GB"])
        await retry.click()
        await expect(visit.cards).to_have_count(3)
    _, lost_one, again = scene.keys
    assert again == lost_one
    assert again is not None
