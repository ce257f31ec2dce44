"""All cards together: finding, selecting, comparing and keeping videos, and the browser's tab."""

import pytest
from playwright.async_api import Browser, Page, expect

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import Refused
from broker.wire.requests import KeepJob
from tests.browser.gallery_scene import GalleryScene, card_of, shown, stop_clock
from tests.browser.visit import PROMPT, open_visit

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

BOTH = pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
APART_S = 0.1
"""How far videos that play together may be apart; a frame takes 0.0625 s."""
LEAVE = """
() => {
  Object.defineProperty(document, "hidden", { configurable: true, value: true });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""
PAUSE = """
(video) => {
  video.pause();
  return video.currentTime.toFixed(2);
}
"""
NOTE_NOTIFICATIONS = """
() => {
  window.shown = [];
  window.Notification = class extends EventTarget {
    static permission = "granted";
    constructor(title, { body }) { super(); window.shown.push([title, body]); }
  };
}
"""


@BOTH
async def test_videos_are_found_by_words_seeds_and_states_also_older_ones(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    swan = gallery.finished("A white swan", age_s=9000, seed=4711)
    code = ErrorCode.RUN_FAILED
    failed = gallery.add(JobState.FAILED, "A black swan", error_code=code, age_s=8000)
    gallery.add(JobState.CANCELLED, "Another black swan")
    for number in range(429):
        gallery.add(JobState.CANCELLED, age_s=number)
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        page = visit.page
        await expect(visit.cards).to_have_count(24)
        search = page.get_by_placeholder({"en-GB": "Search prompts", "zh-CN": "搜索提示词"}[locale])
        await search.fill("SWAN white")
        await expect(card_of(page, swan)).to_be_visible()
        assert await shown(page) == [swan]
        await search.fill("4711")
        await expect(page.locator(".card:visible")).to_have_count(1)
        await search.fill("no such thing")
        await expect(page.locator("#no-match")).to_be_visible()
        await page.locator("#no-match button").click()
        await expect(page.locator("#no-match")).to_be_hidden()
        await page.select_option("#job-filter", "finished")
        await expect(page.locator(".card:visible")).to_have_count(1)
        await page.select_option("#job-filter", "failed")
        await expect(page.locator(".card:visible")).to_have_count(24)
        await page.click("#older")
        await expect(page.locator(".card:visible")).to_have_count(48)
        await search.fill("swan")
        await expect(card_of(page, failed)).to_be_visible()
        await expect(card_of(page, swan)).to_be_hidden()


async def test_many_videos_are_selected_and_deleted_with_one_undo(
    chromium: Browser, gallery: GalleryScene
) -> None:
    running = gallery.running()
    ended = {gallery.finished(age_s=9), gallery.add(JobState.CANCELLED, age_s=8)}
    async with open_visit(chromium, gallery.front.url) as visit:
        page = visit.page
        await stop_clock(page)
        await page.click("#select-jobs")
        await expect(card_of(page, running).locator(".pick")).to_be_hidden()
        await page.get_by_role("button", name="Select all").click()
        await expect(page.locator("#selection")).to_contain_text("2 selected")
        await page.click("#selection .remove")
        assert await shown(page) == [running]
        await page.get_by_role("button", name="Undo").click()
        assert set(await shown(page)) == {running, *ended}
        await page.click("#select-jobs")
        await page.get_by_role("button", name="Select all").click()
        await page.click("#selection .remove")
        await page.clock.run_for(11_000)
        await expect(visit.cards).to_have_count(1)
        assert set(gallery.deleted) == ended


async def test_videos_are_compared_side_by_side_and_play_together(
    chromium: Browser, gallery: GalleryScene
) -> None:
    videos = [gallery.finished(seed=seed, age_s=seed) for seed in (1, 2)]
    async with open_visit(chromium, gallery.front.url) as visit:
        page = visit.page
        await page.click("#select-jobs")
        compare = page.locator("#selection .compare")
        await card_of(page, videos[0]).locator(".pick input").check()
        await expect(compare).to_be_disabled()
        await card_of(page, videos[1]).locator(".pick input").check()
        await compare.click()
        dialog = page.get_by_role("dialog", name="Side by side")
        await expect(dialog.get_by_text("seed 1", exact=False)).to_be_visible()
        await expect(dialog.get_by_text("seed 2", exact=False)).to_be_visible()
        await page.wait_for_function(
            "() => document.querySelector('#compare video').currentTime > 0.3"
        )
        assert await page.evaluate(CATCHES_UP), "a video that falls behind catches up"
        await dialog.get_by_role("button", name="Pause").click()
        first, second = await times(page)
        assert abs(first - second) <= APART_S
        await dialog.get_by_role("slider").fill("1")
        assert await times(page) == [1.0, 1.0]
        await dialog.get_by_role("button", name="Play").click()
        await page.wait_for_function(
            "() => document.querySelector('#compare video').currentTime > 1.2"
        )
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(page.locator("#compare video")).to_have_count(0)


CATCHES_UP = """() => new Promise((done) => {
  const [first, second] = document.querySelectorAll("#compare video");
  let last = first.currentTime;
  second.currentTime = 0;
  const look = () => {
    const now = first.currentTime;
    if (now < last) return done(false);  // begun again, both at 0
    last = now;
    if (Math.abs(now - second.currentTime) < 0.1) return done(true);
    requestAnimationFrame(look);
  };
  look();
})"""
"""Put the second video back, and tell whether it is with the first one before that has ended."""


async def times(page: Page) -> list[float]:
    found: list[float] = await page.locator("#compare video").evaluate_all(
        "(videos) => videos.map((video) => video.currentTime)"
    )
    return found


@pytest.mark.parametrize("is_played", [True, False], ids=["this", "last"])
async def test_a_frame_of_a_video_becomes_the_picture_of_the_next(
    chromium: Browser, gallery: GalleryScene, is_played: bool
) -> None:
    card_id = gallery.finished()
    async with open_visit(chromium, gallery.front.url) as visit:
        page, card = visit.page, card_of(visit.page, card_id)
        at = "1.48"
        if is_played:
            await visit.play(card)
            at = await card.locator("video").evaluate(PAUSE)
        await card.locator(".other").click()
        name = "Animate this frame" if is_played else "Animate the last frame"
        await card.get_by_role("button", name=name).click()
        await page.wait_for_selector("#picture.filled")
        await expect(page.locator("#prompt")).to_be_focused()
        await expect(page.locator("#toasts")).to_contain_text("first picture of your next video")
        await expect(page.locator("#picture-note")).to_contain_text(f"(seed 7)-{at}s.png")
        await page.fill("#prompt", PROMPT)
        await page.click("#submit")
        await expect(visit.cards).to_have_count(2)


@BOTH
async def test_a_video_is_kept_until_it_is_let_go(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    job_id = gallery.finished()
    keep, kept, let_go = {
        "en-GB": ("Keep for good", "Kept for good", "Let it expire"),
        "zh-CN": ("长期保留", "已长期保留", "取消保留"),
    }[locale]
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        expiry = card_of(visit.page, job_id).locator(".expiry")
        await expiry.get_by_role("button", name=f"{keep}: ").click()
        await expect(expiry).to_contain_text(kept)
        await visit.page.select_option("#job-filter", "kept")
        await expect(card_of(visit.page, job_id)).to_be_visible()
        await expiry.get_by_role("button", name=let_go).click()
        await expect(visit.page.locator("#no-match")).to_be_visible()
        asked = [each.keep for each in gallery.broker.asked if isinstance(each, KeepJob)]
        assert asked == [True, False]


@BOTH
async def test_no_more_can_be_kept_than_the_server_allows(
    chromium: Browser, gallery: GalleryScene, locale: str
) -> None:
    job_id = gallery.finished()
    refusal = Refused(code=ErrorCode.KEEP_LIMIT, message="50 videos are kept")
    gallery.broker.script = lambda request: refusal if isinstance(request, KeepJob) else None
    async with open_visit(chromium, gallery.front.url, locale=locale) as visit:
        await card_of(visit.page, job_id).locator(".keep").click()
        said = {"en-GB": "as many videos as this server allows", "zh-CN": "已达服务器上限"}
        await expect(visit.page.locator("#toasts")).to_contain_text(said[locale])


async def test_each_video_has_a_link_that_leads_to_it(
    chromium: Browser, gallery: GalleryScene
) -> None:
    job_id = gallery.finished(age_s=9000)
    for number in range(30):
        gallery.add(JobState.CANCELLED, age_s=number)
    async with open_visit(chromium, gallery.front.url) as visit:
        page, card = visit.page, card_of(visit.page, job_id)
        await page.evaluate(f"location.hash = '#video-{job_id}'")
        await expect(card).to_be_focused()
        await visit.reload()
        await expect(card).to_be_focused()
        await expect(card).to_be_in_viewport()
        await page.evaluate("history.replaceState(null, '', location.pathname)")
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await card.locator(".other").click()
        await card.get_by_role("button", name="Copy link").click()
        await expect(page.locator("#toasts")).to_contain_text("The link has been copied.")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == f"{gallery.front.url}/#video-{job_id}"
        await page.evaluate(f"location.hash = '#video-{'0' * 32}'")
        await expect(page.locator("#toasts")).to_contain_text("This video is not here")


async def test_the_tab_shows_progress_and_a_notification_says_when_a_video_is_done(
    chromium: Browser, gallery: GalleryScene
) -> None:
    job_id = gallery.running()
    async with open_visit(chromium, gallery.front.url) as visit:
        page = visit.page
        await expect(page).to_have_title("40% · wan-ranks")
        await gallery.broker.change(job_id, progress=0.5)
        await expect(page).to_have_title("50% · wan-ranks")
        await page.evaluate(NOTE_NOTIFICATIONS)
        await page.evaluate(LEAVE)
        await gallery.broker.change(job_id, state=JobState.FAILED, reason="it failed")
        await expect(page).to_have_title("✓ 1 · wan-ranks")
        assert await page.evaluate("window.shown") == [["Failed", PROMPT]]


async def test_a_failed_video_is_tried_again_with_its_own_picture_and_settings(
    chromium: Browser, gallery: GalleryScene
) -> None:
    async with open_visit(chromium, gallery.front.url) as visit:
        card = await visit.submit()
        (job_id,) = gallery.broker.specs
        await gallery.broker.change(
            job_id, state=JobState.FAILED, error_code=ErrorCode.GROUP_LOST, reason="it died"
        )
        await visit.page.fill("#prompt", "Something quite different")
        await card.get_by_role("button", name="Try again").click()
        await expect(visit.cards).to_have_count(2)
        first, second = gallery.broker.specs.values()
        assert second == first
        assert await visit.page.input_value("#prompt") == "Something quite different"
