"""The cards of the page: what they say, their order, and what can be done with a video."""

import asyncio
import re
import time

import pytest
from playwright.async_api import Browser, Page, Position, expect

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import HealthFound
from broker.wire.requests import DeleteJob
from tests.browser.axe import violations
from tests.browser.gallery_scene import GalleryScene, card_of, shown, stop_clock
from tests.browser.visit import LIMIT_MS, open_visit

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

BOTH = pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
SWAN = "天鹅滑过晨光中的湖面"


async def test_what_runs_comes_first_then_what_waits_then_what_has_ended(
    chromium: Browser, gallery: GalleryScene
) -> None:
    second = gallery.add(JobState.IN_QUEUE, queue_position=2, age_s=10)
    old, new = gallery.finished(age_s=90), gallery.finished(age_s=40)
    first = gallery.add(JobState.IN_QUEUE, queue_position=1, age_s=5)
    running = gallery.running(age_s=20)
    async with open_visit(chromium, gallery.front.url) as visit:
        assert await shown(visit.page) == [running, first, second, new, old]
        button = card_of(visit.page, first).locator(".cancel")
        await button.focus()
        await gallery.broker.change(running, state=JobState.CANCELLED, stage=None)
        await gallery.broker.change(second, state=JobState.IN_PROGRESS, queue_position=None)
        await expect(visit.page.locator(".card").first).to_have_attribute("data-job", second)
        await expect(visit.page.locator(".card").nth(2)).to_have_attribute("data-job", running)
        await expect(button).to_be_focused()


@BOTH
async def test_a_card_says_how_its_video_was_made_and_how_long_it_stays(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    gallery.finished(seed=2**53 + 1)
    near = gallery.finished(age_s=4000, expires_at=time.time() + 600)
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        seed, took, kept, expires = {
            "en-GB": (
                "seed 9007199254740993",
                "took 42 s",
                "Kept until",
                "Will be removed in 10 min",
            ),
            "zh-CN": ("种子 9007199254740993", "用时 42 秒", "保留至", "10 分钟后删除"),
        }[locale]
        card = visit.page.locator(".card").first
        await expect(card.locator(".making")).to_contain_text(seed)
        await expect(card.locator(".making")).to_contain_text(took)
        await expect(card.locator(".details")).to_contain_text("Wan2.1-I2V-14B-720P")
        await expect(card.locator(".expiry")).to_contain_text(kept)
        await expect(card_of(visit.page, near).locator(".expiry.near")).to_contain_text(expires)


@BOTH
async def test_what_has_expired_is_said_once_and_what_was_deleted_is_not(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    gone = gallery.finished(SWAN, expires_at=time.time() + 2)
    deleted = gallery.finished(age_s=9)
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        note = visit.page.locator("#expired-note")
        await expect(note).to_be_hidden()
        for job_id in (gone, deleted):
            del gallery.broker.history[job_id]
        await visit.page.clock.set_fixed_time(time.time() + 60)
        await visit.reload()
        await expect(note).to_contain_text(SWAN[:10])
        await expect(note).to_contain_text(
            {"en-GB": "A video has expired", "zh-CN": "1 个视频已过期"}[locale]
        )
        await visit.reload()
        await note.get_by_role("button").click()
        await visit.reload()
        await expect(note).to_be_hidden()


@BOTH
async def test_a_failed_card_says_why_in_the_language_of_the_page(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    gallery.add(JobState.FAILED, reason="the ranks ran out", error_code=ErrorCode.OUT_OF_MEMORY)
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        why, again = {
            "en-GB": ("Try a smaller or a shorter video.", "Try again"),
            "zh-CN": ("请降低分辨率或缩短时长。", "重试"),
        }[locale]
        card = visit.page.locator(".card")
        await expect(card.locator(".status")).to_contain_text(why)
        await expect(card.locator(".status")).not_to_contain_text("ranks")
        await expect(card.get_by_role("button", name=again)).to_be_visible()


async def test_the_page_says_that_a_cancelled_video_still_has_to_stop(
    chromium: Browser, gallery: GalleryScene
) -> None:
    gallery.add(JobState.CANCELLED)
    gallery.broker.health = HealthFound(
        ready=True, draining=False, queued=0, running=1, stopping=1, groups=[]
    )
    async with open_visit(chromium, gallery.front.url) as visit:
        server = visit.page.locator("#server")
        await expect(server).to_have_text("Ready · stopping a cancelled video")
        await visit.page.click("#language")
        await expect(server).to_have_text("就绪 · 正在停止 1 个已取消的视频")


@BOTH
async def test_a_deletion_can_be_undone_for_ten_seconds(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    job_id = gallery.finished()
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        page = visit.page
        await stop_clock(page)
        await delete(page, job_id, clicks=2)
        await expect(card_of(page, job_id)).to_be_hidden()
        undo = page.get_by_role("button", name={"en-GB": "Undo", "zh-CN": "撤销"}[locale])
        await page.clock.run_for(9_000)
        assert not gallery.deleted
        await undo.click()
        await expect(card_of(page, job_id)).to_be_visible()
        await page.clock.run_for(20_000)
        assert not gallery.deleted
        await delete(page, job_id)
        await expect(undo).to_be_focused()
        async with page.expect_response(lambda answer: "/video/delete" in answer.url):
            await page.clock.run_for(10_500)
        await expect(undo).to_be_hidden()
        assert gallery.deleted == [job_id]


async def test_who_leaves_the_page_has_not_undone_the_deletion(
    chromium: Browser, gallery: GalleryScene
) -> None:
    job_id = gallery.finished()
    async with open_visit(chromium, gallery.front.url) as visit:
        await delete(visit.page, job_id)
        deleted = asyncio.Event()
        gallery.broker.script = lambda request: (
            deleted.set() if isinstance(request, DeleteJob) else None
        )
        await visit.page.goto(f"{gallery.front.url}/live")
        async with asyncio.timeout(LIMIT_MS / 1000):
            await deleted.wait()
        assert gallery.deleted == [job_id]
        await visit.open(gallery.front.url)
        await expect(visit.page.locator("#no-jobs")).to_be_visible()


async def test_each_card_has_a_heading_and_each_button_says_of_which_video(
    chromium: Browser, gallery: GalleryScene
) -> None:
    gallery.finished()
    gallery.running(SWAN)
    async with open_visit(chromium, gallery.front.url) as visit:
        page = visit.page
        await expect(page.get_by_role("heading", level=3, name=SWAN)).to_be_visible()
        await page.get_by_role("button", name=f"Cancel: {SWAN}").wait_for()
        for name in ("Play", "Download", "Another take", "More", "Keep for good"):
            button = page.get_by_role("button", name=f"{name}: A small boat drifts", exact=False)
            await expect(button).to_be_visible()


async def test_the_pointer_skims_through_a_video(chromium: Browser, gallery: GalleryScene) -> None:
    gallery.finished()
    async with open_visit(chromium, gallery.front.url) as visit:
        screen, sprites = visit.page.locator(".screen"), visit.page.locator(".sprites")
        box = await screen.bounding_box()
        assert box is not None
        for share, at in (
            (0.02, "0% 0%"),
            (0.25, "50% 0%"),
            (0.45, "100% 0%"),
            (0.55, "0% 100%"),
            (0.98, "100% 100%"),
        ):
            await screen.hover(position=Position(x=box["width"] * share, y=box["height"] / 2))
            await expect(sprites).to_have_css("background-position", at)
        await expect(sprites).to_have_css("background-image", re.compile("sprites.webp"))
        await visit.page.locator("#jobs-title").hover()
        await expect(sprites).to_be_hidden()


@pytest.mark.parametrize(
    ("locale", "scheme", "width", "height"),
    [("en-GB", "light", 1440, 900), ("zh-CN", "dark", 390, 844)],
)
async def test_every_state_of_the_cards_is_accessible(
    chromium: Browser, gallery: GalleryScene, locale: str, scheme: str, width: int, height: int
) -> None:
    gallery.running(age_s=1)
    gallery.add(JobState.IN_QUEUE, SWAN, queue_position=1, age_s=2)
    gallery.add(JobState.FAILED, error_code=ErrorCode.GROUP_LOST, age_s=5)
    gallery.add(JobState.CANCELLED, SWAN, age_s=6)
    finished = gallery.finished(age_s=3)
    near = gallery.finished(age_s=4000, expires_at=time.time() + 600)
    async with open_visit(
        chromium,
        gallery.front.url,
        locale=locale,
        color_scheme=scheme,
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
    ) as visit:
        page = visit.page
        assert await page.evaluate("document.scrollingElement.scrollWidth") <= width
        await visit.keep(f"cards-{locale}-{scheme}", whole=True)
        assert not await violations(page)
        await card_of(page, finished).locator(".other").click()
        assert not await violations(page)
        await page.keyboard.press("Escape")
        await page.click("#select-jobs")
        for job_id in (finished, near):
            await card_of(page, job_id).locator(".pick input").check()
        await visit.keep(f"select-{locale}-{scheme}")
        assert not await violations(page)
        await page.click("#selection .compare")
        await expect(page.locator("#compare video")).to_have_count(2)
        assert not await violations(page)
        await page.click("#compare .close")
        await page.click("#selection .remove")
        assert not await violations(page)


async def delete(page: Page, job_id: str, clicks: int = 1) -> None:
    card = card_of(page, job_id)
    await card.locator(".other").click()
    await card.locator(".delete").click(click_count=clicks)
