"""The page in a real browser, with a real front and a broker scripted by each test."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image, ImageOps
from playwright.async_api import Browser, WebSocketRoute, expect

from broker.wire.errors import ResultWarning
from broker.wire.events import job_previews, preview_topic
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.job_view import JobView, Lease
from broker.wire.rank_messages import JobPreview
from tests.browser.visit import LIMIT_MS, PROMPT, Visit, as_png, open_visit, stripes
from tests.http_front.images.image_server import ImageServer, http_answer
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

LARGEST_CROP_DIFFERENCE = 6.0
"""Of 255; the browser and the server scale with different filters."""


def latest(broker: ScriptedBroker) -> str:
    return next(reversed(broker.history))


async def run(broker: ScriptedBroker, job_id: str, step: int, num_steps: int = 30) -> None:
    await broker.change(
        job_id,
        state=JobState.IN_PROGRESS,
        queue_position=None,
        stage=Stage.DENOISE,
        step=step,
        num_steps=num_steps,
        progress=step / num_steps,
        eta_s=90.0,
    )


async def show_preview(broker: ScriptedBroker, job_id: str, colour: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (320, 180), colour).save(file, "JPEG")
    lease = Lease(group="g0", epoch=1, job_id=job_id, attempt=1)
    preview = JobPreview(lease=lease, jpeg=file.getvalue())
    await broker.send_raw(preview_topic(job_id), *job_previews.encode(preview))


@pytest.mark.parametrize("picture_size", [(400, 100), (120, 300)])
async def test_a_dropped_picture_is_shown_as_the_server_will_crop_it(
    visit: Visit, picture_size: tuple[int, int]
) -> None:
    picture = stripes(*picture_size)
    await visit.page.select_option("[name=image_size]", "640*640")
    await visit.drop(as_png(picture))
    shown = await visit.picture_of("#picture-crop")
    inner = shown.crop((12, 12, shown.width - 12, shown.height - 12))  # without the round corners
    wanted = ImageOps.fit(picture, shown.size, Image.Resampling.LANCZOS)
    wanted = wanted.crop((12, 12, shown.width - 12, shown.height - 12))
    difference = np.abs(np.asarray(inner, float) - np.asarray(wanted, float))
    assert difference.max() <= LARGEST_CROP_DIFFERENCE
    await expect(visit.page.locator("#picture-note")).to_contain_text("cut off")


async def test_a_portrait_picture_selects_a_portrait_size(
    visit: Visit, broker: ScriptedBroker
) -> None:
    await visit.drop(as_png(stripes(90, 160)))
    await visit.page.fill("#prompt", PROMPT)
    await visit.page.click("#submit")
    await visit.cards.first.wait_for()
    assert broker.specs[latest(broker)].image_size == "720*1280"


async def test_the_job_has_the_settings_of_the_form(visit: Visit, broker: ScriptedBroker) -> None:
    await visit.page.click("label:has(#preset-draft)")
    await visit.page.click("#creative summary")
    await visit.page.fill("[name=seed]", "42")
    await visit.page.fill("[name=negative_prompt]", "blurred")
    await visit.submit(sample_solver="dpm++")
    spec = broker.specs[latest(broker)]
    assert (spec.image_size, spec.num_frames, spec.infer_steps) == ("832*480", 49, 20)
    assert (spec.prompt, spec.seed, spec.negative_prompt) == (PROMPT, 42, "blurred")
    assert (spec.sample_solver, spec.cfg_size) == ("dpm++", None)


async def test_a_waiting_job_shows_its_queue_position_and_remaining_time(
    visit: Visit, broker: ScriptedBroker
) -> None:
    card = await visit.submit()
    await broker.change(latest(broker), queue_position=3, eta_s=600.0)
    await visit.wait_for_text(".status", "number 3 in the queue")
    await expect(card.locator(".status")).to_contain_text("done in about 10 min")
    await visit.keep("waiting")


async def test_a_running_job_shows_stage_step_and_previews(
    visit: Visit, broker: ScriptedBroker
) -> None:
    card = await visit.submit()
    await run(broker, latest(broker), 5)
    await expect(card.locator(".status")).to_contain_text("step 5 of 30")
    await show_preview(broker, latest(broker), "orange")
    await card.locator("img.live").wait_for()
    first = await card.locator("img").get_attribute("src")
    await show_preview(broker, latest(broker), "teal")
    await expect(card.locator("img")).not_to_have_attribute("src", first or "")
    assert await card.locator("progress").evaluate("(bar) => bar.value") == pytest.approx(5 / 30)


async def test_a_running_job_is_cancelled(visit: Visit, broker: ScriptedBroker) -> None:
    card = await visit.submit()
    await run(broker, latest(broker), 5)
    await visit.wait_for(card, "InProgress")
    await card.get_by_role("button", name="Cancel").click()
    await visit.wait_for(card, "Cancelled")
    assert broker.history[latest(broker)][-1].state is JobState.CANCELLED


async def test_a_failed_job_says_why(visit: Visit, broker: ScriptedBroker) -> None:
    card = await visit.submit()
    reason = "the ranks ran out of memory; ask for a smaller or shorter video"
    await broker.change(latest(broker), state=JobState.FAILED, reason=reason)
    await expect(card.locator(".status")).to_have_text(reason)


async def test_a_video_that_looks_wrong_has_a_warning(visit: Visit, broker: ScriptedBroker) -> None:
    card = await visit.submit()
    job_id = latest(broker)
    warning = ResultWarning.SINGLE_COLOUR
    await broker.change(
        job_id, state=JobState.SUCCEED, progress=1.0, video=f"{job_id}.mp4", warning=warning
    )
    await expect(card.locator(".status")).to_contain_text("a single colour only")


async def test_a_missing_field_is_reported_before_anything_is_sent(
    visit: Visit, broker: ScriptedBroker
) -> None:
    await visit.page.click("#submit")
    await expect(visit.page.locator("#picture .wrong")).to_have_text("Choose a picture first.")
    await visit.drop(as_png(stripes(160, 90)))
    await expect(visit.page.locator("#picture .wrong")).to_have_count(0)
    await visit.page.fill("#prompt", "short")
    await visit.page.click("#submit")
    await expect(visit.page.get_by_role("alert")).to_contain_text("10 characters")
    await expect(visit.page.locator("#prompt")).to_be_focused()
    assert not broker.specs


@pytest_asyncio.fixture(loop_scope="session")
async def fetching(tmp_path: Path, broker: ScriptedBroker) -> AsyncIterator[tuple[Served, str]]:
    """A front that may fetch from this machine, and the URL of a picture on it."""
    async with (
        ImageServer().listen("127.0.0.1") as images,
        serve(tmp_path, broker.addresses, allow_private_images=True) as front,
    ):
        images.answer = http_answer(as_png(stripes(160, 90)))
        yield front, f"http://127.0.0.1:{images.port}/boat.png"


@pytest.mark.parametrize(
    ("locale", "label", "note"),
    [
        ("en-GB", "Or the address of a picture", "The server will fetch the picture"),
        ("zh-CN", "或填写图片网址", "图片由服务器下载"),
    ],
)
async def test_a_picture_can_be_given_by_its_address(
    chromium: Browser,
    broker: ScriptedBroker,
    fetching: tuple[Served, str],
    locale: str,
    label: str,
    note: str,
) -> None:
    front, address = fetching
    async with open_visit(chromium, front.url, locale=locale) as visit:
        await visit.drop(as_png(stripes(90, 160)))
        await visit.page.click("#picture-remove")
        await visit.page.get_by_label(label).fill(address)
        await expect(visit.page.locator("#picture-note")).to_contain_text(note)
        await expect(visit.page.locator("#picture-crop")).to_be_hidden()
        await visit.page.fill("#prompt", PROMPT)
        await visit.keep(f"address-{locale}")
        await visit.page.click("#submit")
        await visit.cards.first.wait_for()
        assert broker.specs[latest(broker)].prompt == PROMPT
        assert front.stored_images()
        await visit.drop(as_png(stripes(160, 90)))
        assert await visit.page.get_by_label(label).input_value() == ""


async def test_an_invalid_or_forbidden_address_is_reported(
    visit: Visit, broker: ScriptedBroker
) -> None:
    address = visit.page.get_by_label("Or the address of a picture")
    alert = visit.page.get_by_role("alert")
    await visit.page.fill("#prompt", PROMPT)
    await address.fill("boat.png")
    await visit.page.click("#submit")
    await expect(alert).to_have_text("The address must begin with https:// or http://")
    await address.fill("http://127.0.0.1/boat.png")
    await visit.page.click("#submit")
    await expect(alert).to_contain_text("The server may not fetch from this address.")
    await expect(alert).not_to_contain_text("image_url")
    await expect(address).to_be_focused()
    assert not broker.specs


async def test_all_jobs_can_be_shown_page_by_page(visit: Visit, broker: ScriptedBroker) -> None:
    spec = JobSpec(prompt=PROMPT)
    for number in range(130):
        job_id = f"{number:032x}"
        broker.specs[job_id] = spec
        broker.history[job_id] = [
            JobView(
                job_id=job_id,
                seq=1,
                state=JobState.CANCELLED,
                progress=0.0,
                created_at=1e9 + number,
                updated_at=1e9 + number,
            )
        ]
    await visit.reload()
    older = visit.page.get_by_role("button", name="Show older videos")
    for shown in (24, 48, 96):
        await expect(visit.cards).to_have_count(shown)
        await older.click()
    await expect(visit.cards).to_have_count(130)
    await expect(older).to_be_hidden()
    assert await visit.cards.last.get_attribute("data-job") == f"{0:032x}"


async def test_jobs_and_the_draft_survive_a_reload(visit: Visit, broker: ScriptedBroker) -> None:
    await visit.submit(image_size="480*832")
    await run(broker, latest(broker), 7)
    await visit.reload()
    await visit.wait_for_text(".status", "step 7 of 30")
    assert await visit.page.input_value("#prompt") == PROMPT
    assert await visit.page.input_value("[name=image_size]") == "480*832"


async def test_the_settings_of_a_job_are_copied_to_the_form(visit: Visit) -> None:
    card = await visit.submit(image_size="640*640")
    await visit.page.fill("#prompt", "Something quite different")
    await visit.page.select_option("[name=image_size]", "832*480")
    await card.get_by_role("button", name="Another take").click()
    await expect(visit.page.locator("#prompt")).to_have_value(PROMPT)
    assert await visit.page.input_value("[name=image_size]") == "640*640"
    await expect(visit.page.locator("#prompt")).to_be_focused()


async def test_the_page_uses_the_language_of_its_visitor(chromium: Browser, front: Served) -> None:
    async with open_visit(chromium, front.url, locale="zh-CN") as visit:
        await expect(visit.page.locator("#submit")).to_have_text("生成视频")
        assert await visit.page.get_attribute("html", "lang") == "zh-CN"
        card = await visit.submit()
        await expect(card.locator(".badge")).to_have_text("排队中")
        await visit.keep("chinese", whole=True)
        await visit.page.get_by_role("button", name="English").click()
        await expect(visit.page.locator("#submit")).to_have_text("Make the video")
        await expect(card.locator(".badge")).to_have_text("Waiting")
        await visit.reload()
        await expect(visit.page.locator("#submit")).to_have_text("Make the video")


async def test_everything_can_be_done_with_the_keyboard(
    visit: Visit, broker: ScriptedBroker
) -> None:
    page = visit.page
    await visit.drop(as_png(stripes(160, 90)))
    await page.focus("#picture-file")
    for _ in range(4):  # past the buttons of the picture and its zoom
        await page.keyboard.press("Tab")
    await page.keyboard.type(PROMPT)
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowLeft")  # among the presets
    for _ in range(2):  # past the aspect ratios
        await page.keyboard.press("Tab")
    await expect(page.locator("[name=image_size]")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("End")
    for _ in range(7):  # seed, lock, dice, two sections, number of videos
        await page.keyboard.press("Tab")
    await expect(page.locator("#submit")).to_be_focused()
    await page.keyboard.press("Enter")
    await visit.cards.first.wait_for()
    await expect(page.locator("#submit")).to_be_focused()
    spec = broker.specs[latest(broker)]
    assert (spec.prompt, spec.num_frames, spec.image_size) == (PROMPT, 121, "832*480")
    cancel = visit.cards.first.get_by_role("button", name="Cancel")
    await cancel.focus()
    await page.keyboard.press("Enter")
    await visit.wait_for(visit.cards.first, "Cancelled")
    await expect(visit.cards.first.get_by_role("button", name="Another take")).to_be_focused()


async def test_a_job_that_starts_does_not_change_the_layout(
    visit: Visit, broker: ScriptedBroker
) -> None:
    card = await visit.submit()
    await broker.change(latest(broker), eta_s=90.0)
    await expect(card.locator(".status")).to_contain_text("done in about")
    before = await card.bounding_box()
    await run(broker, latest(broker), 3)
    await visit.wait_for(card, "InProgress")
    assert await card.bounding_box() == before


async def test_the_time_of_a_job_is_formatted_by_the_visitors_locale(visit: Visit) -> None:
    card = await visit.submit()
    await expect(card.locator(".details")).to_have_text(re.compile(r" · \d\d:\d\d$"))


async def test_every_control_has_a_name(visit: Visit) -> None:
    await visit.submit()
    await visit.page.click("#creative summary")
    await visit.page.click("#engine summary")
    tree = await visit.page.locator("body").aria_snapshot()
    nameless = [
        line
        for line in tree.splitlines()
        if line.strip().lstrip("- ").rstrip(":") in ("button", "textbox", "combobox", "slider")
    ]
    assert not nameless, tree
    labels = await visit.page.locator("label").all_inner_texts()
    assert not [label for label in labels if "_" in label], "a field has no name for people"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_a_phone(
    chromium: Browser, front: Served, broker: ScriptedBroker, scheme: str
) -> None:
    phone = {"width": 360, "height": 740}
    async with open_visit(
        chromium, front.url, viewport=phone, color_scheme=scheme, has_touch=True
    ) as visit:
        card = await visit.submit()
        await run(broker, latest(broker), 12)
        await visit.wait_for(card, "InProgress")
        await visit.page.click("#creative summary")
        await visit.page.click("#engine summary")
        width = await visit.page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= phone["width"]
        await visit.keep(f"phone-{scheme}", whole=True)


async def test_a_lost_connection_is_shown_and_restored(
    visit: Visit, broker: ScriptedBroker
) -> None:
    card = await visit.submit()
    await run(broker, latest(broker), 3)
    await visit.wait_for(card, "InProgress")
    await visit.page.context.set_offline(True)
    await visit.wait_for_text("#server", "No connection")
    await visit.page.context.set_offline(False)
    await visit.wait_for_text("#server", "Ready")
    await run(broker, latest(broker), 9)
    await visit.wait_for_text(".status", "step 9 of 30")


async def test_a_job_whose_connection_ends_is_followed_by_another(
    visit: Visit, broker: ScriptedBroker
) -> None:
    """The list, which is polled, would tell of the steps, but has no previews."""
    opened: asyncio.Queue[WebSocketRoute] = asyncio.Queue()

    def pass_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        opened.put_nowait(socket)

    await visit.page.route_web_socket(re.compile("/video/progress"), pass_on)
    await visit.reload()
    card = await visit.submit()
    async with asyncio.timeout(LIMIT_MS / 1000):
        first = await opened.get()
        await run(broker, latest(broker), 3)
        await visit.wait_for(card, "InProgress")
        await first.close()
        await opened.get()


async def test_the_security_policy_allows_no_other_origin(front: Served) -> None:
    async with front.session.get(front.url + "/") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert policy.startswith("default-src 'self'; img-src 'self' blob: data:")
    assert "unsafe" not in policy
    assert "style=" not in text
    assert "onclick" not in text
