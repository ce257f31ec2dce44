"""The pictures of the form: what the browser makes of them before they are sent."""

import asyncio
import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import FilePayload, Page, Route, expect

from broker.store.folder import FolderStore
from broker.wire.job import JobSpec
from tests.browser.form_scene import FormScene, drag, fill, pictures, send
from tests.browser.test_videos import HEIGHT_PX, WIDTH_PX, write_video
from tests.browser.visit import PROMPT, as_png, stripes

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

LINK = "https://example.com/boat.jpg"
_ORIENTATION = 0x0112
_TURNED_RIGHT = 6


def as_file(picture: Image.Image, kind: str, name: str, **options: Any) -> FilePayload:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return FilePayload(name=name, mimeType=f"image/{kind.lower()}", buffer=file.getvalue())


def panorama() -> FilePayload:
    """A picture with more pixels at a side than the server takes, transparent at its left."""
    picture = stripes(900, 150).resize((9000, 1500)).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 4500, 1500))
    return as_file(picture, "PNG", "panorama.png", compress_level=1)


def turned() -> FilePayload:
    """A picture that was taken with the camera on its side."""
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED_RIGHT
    picture = Image.new("RGB", (400, 300), "white")
    picture.paste("navy", (0, 0, 400, 150))
    return as_file(picture, "JPEG", "turned.jpg", exif=exif, quality=95)


async def test_a_picture_is_decoded_scaled_and_cropped_before_it_is_sent(
    scene: FormScene,
) -> None:
    async with scene.visit() as visit:
        page = visit.page
        await page.set_input_files("#picture-file", panorama())
        await page.locator("#picture.filled").wait_for()
        await page.fill("#prompt", PROMPT)
        await page.locator("#picture-x").fill("0")
        await send(visit)
    image = scene.image()
    assert image.size == (1280, 720)
    assert np.asarray(image).min() >= 254, "what is transparent is white"


async def test_a_turned_picture_and_one_of_another_kind_are_upright(scene: FormScene) -> None:
    async with scene.visit() as visit:
        page = visit.page
        await page.set_input_files("#picture-file", turned())
        await page.locator("#picture.filled").wait_for()
        await expect(page.locator("[name=image_size]")).to_have_value("720*1280")
        await page.fill("#prompt", PROMPT)
        await page.locator("#picture-x").fill("1")
        await send(visit)
        image = np.asarray(scene.image(), float)
        assert image.shape[0] > image.shape[1]
        assert image[:, :20, 0].mean() > image[:, -20:, 0].mean() + 100, "navy is on the right"
        await page.set_input_files("#picture-file", as_file(stripes(640, 480), "GIF", "a.gif"))
        await expect(page.locator("#picture-note")).to_contain_text("a.gif")
        await send(visit)
        assert scene.image().size == (640, 360)


async def test_a_picture_can_be_dragged_to_move_the_crop(scene: FormScene) -> None:
    async with scene.visit() as visit:
        await visit.drop(as_png(stripes(1200, 200)))
        before = (await visit.picture_of("#picture-crop")).getpixel((20, 60))
        box = await visit.page.locator("#picture .frame").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await visit.page.mouse.move(x, y)
        await visit.page.mouse.down()
        await visit.page.mouse.move(x + 150, y, steps=3)
        await visit.page.mouse.up()
        after = (await visit.picture_of("#picture-crop")).getpixel((20, 60))
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        assert after[0] < before[0] - 20, "the darker left side has come into view"


@pytest.mark.parametrize(("locale", "label"), [("en-GB", "Zoom"), ("zh-CN", "缩放")])
async def test_the_crop_is_zoomed_and_moved_from_the_keyboard(
    scene: FormScene, locale: str, label: str
) -> None:
    """The sent picture is what the frame shows: a quarter of each side, in the lower right."""
    async with scene.visit(locale) as visit:
        page = visit.page
        await visit.drop(as_png(stripes(1280, 720)))
        await expect(page.locator("#picture-y")).to_be_hidden()
        zoom = page.get_by_role("slider", name=label)
        await zoom.focus()
        await page.keyboard.press("End")
        await expect(page.locator("#picture-note")).to_contain_text("94%")
        for slider in ("#picture-x", "#picture-y"):
            await page.focus(slider)
            await page.keyboard.press("End")
        await page.fill("#prompt", PROMPT)
        shown = await visit.picture_of("#picture .frame")
        await visit.keep(f"crop-{locale}")
        await send(visit)
    image = scene.image()
    assert image.size == (320, 180)
    sent = np.asarray(image.resize(shown.size), float)
    assert np.abs(sent - np.asarray(shown, float))[9:-9, 9:-9].mean() < 3
    assert sent.min(axis=(0, 1))[:2].min() > 255 * 0.7


async def test_the_wheel_zooms_with_control_and_scrolls_without(scene: FormScene) -> None:
    async with scene.visit() as visit:
        page = visit.page
        await visit.drop(as_png(stripes(1280, 720)))
        await page.hover("#picture .frame")
        await page.mouse.wheel(0, -100)
        await expect(page.locator("#picture-zoom")).to_have_value("1")
        await page.keyboard.down("Control")
        await page.mouse.wheel(0, -200)
        await page.keyboard.up("Control")
        await expect(page.locator("#picture-zoom")).to_have_value("2")


async def test_two_fingers_zoom_the_crop_and_one_moves_it(scene: FormScene) -> None:
    async with scene.visit(has_touch=True, is_mobile=True) as visit:
        page = visit.page
        zoom, across = page.locator("#picture-zoom"), page.locator("#picture-x")
        await visit.drop(as_png(stripes(1280, 720)))
        frame = page.locator("#picture .frame")
        await frame.scroll_into_view_if_needed()
        await expect(frame).to_have_css("touch-action", "pan-x pan-y")  # the page does not zoom
        await touch(page, [(-20, 20), (-30, 30), (-40, 40)])
        await expect(zoom).to_have_value("2")
        await touch(page, [(0,), (30,), (60,)])
        assert 0 < float(await across.input_value()) < 0.45
        await expect(zoom).to_have_value("2")
        await touch(page, [(-40, 40), (-35, 35), (-30, 30)])
        await expect(zoom).to_have_value("1.5")


async def touch(page: Page, moments: Sequence[Sequence[int]]) -> None:
    """Touch the picture; the fingers are as far right of its middle as each moment says."""
    box = await page.locator("#picture .frame").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = await page.context.new_cdp_session(page)
    for number, fingers in enumerate([*moments, ()]):
        points = [{"x": x + right, "y": y, "id": finger} for finger, right in enumerate(fingers)]
        kind = "touchMove" if number else "touchStart"
        event = {"type": kind if fingers else "touchEnd", "touchPoints": points}
        await session.send("Input.dispatchTouchEvent", event)


async def test_the_aspect_ratio_is_chosen_or_that_of_the_picture(scene: FormScene) -> None:
    async with scene.visit() as visit:
        size = visit.page.locator("[name=image_size]")
        await visit.drop(as_png(stripes(300, 100)))
        for ratio, wanted in (
            ("4:3", "1104*816"),
            ("1:1", "960*960"),
            ("9:16", "720*1280"),
            ("As picture", "1648*544"),
        ):
            await visit.page.locator("#shapes label", has_text=ratio).click()
            await expect(size).to_have_value(wanted)
        await expect(visit.page.locator("#picture-note")).to_contain_text("not cropped")
        await visit.page.click("label:has(#preset-draft)")
        await expect(size).to_have_value("1088*352")
        await expect(visit.page.locator("#preset-draft")).to_be_checked()


async def test_a_link_or_a_picture_of_another_page_can_be_dropped_or_pasted(
    scene: FormScene,
) -> None:
    async with scene.visit() as visit:
        address = visit.page.locator("#picture-url")
        await drag(visit, "text/uri-list", f"# a comment\r\n{LINK}")
        await expect(address).to_have_value(LINK)
        await drag(visit, "text/html", f'<p><img src="{LINK}?2" alt=""></p>')
        await expect(address).to_have_value(f"{LINK}?2")
        inline = base64.b64encode(as_png(stripes(160, 90))).decode()
        await drag(visit, "text/html", f'<img src="data:image/png;base64,{inline}">')
        await visit.page.locator("#picture.filled").wait_for()
        await visit.page.click("#picture-remove")
        await visit.page.evaluate(
            """(link) => {
              const data = new DataTransfer();
              data.setData("text/plain", link);
              const options = { clipboardData: data, bubbles: true };
              document.body.dispatchEvent(new ClipboardEvent("paste", options));
            }""",
            LINK,
        )
        await expect(address).to_have_value(LINK)


async def test_several_pictures_and_seeds_make_a_video_each(
    scene: FormScene, tmp_path: Path
) -> None:
    async with scene.visit() as visit:
        files = pictures(tmp_path, [(160, 90), (170, 90), (180, 90)])
        await visit.page.set_input_files("#picture-file", files)
        await expect(visit.page.locator("#picture-note")).to_contain_text("3 pictures")
        await visit.page.get_by_role("button", name="Remove 1.png").click()
        await expect(visit.page.locator("#picture-note")).to_contain_text("2 pictures")
        await visit.page.fill("#prompt", PROMPT)
        await visit.page.locator("#takes label").nth(1).click()
        await send(visit, 4)
        assert len({spec.seed for spec in scene.specs}) == 4
        assert len(set(scene.broker.images.values())) == 2
        await visit.page.fill("[name=seed]", "7")
        await send(visit, 4)
        assert [spec.seed for spec in scene.specs[4:]] == [7, 8, 7, 8]


@pytest.mark.parametrize(("locale", "word"), [("en-GB", "boat"), ("zh-CN", "帆船")])
async def test_an_example_brings_a_picture_and_a_prompt(
    scene: FormScene, locale: str, word: str
) -> None:
    async with scene.visit(locale) as visit:
        await visit.page.locator("#examples button").first.click()
        await visit.page.locator("#picture.filled").wait_for()
        await expect(visit.page.locator("#examples")).to_be_hidden()
        await expect(visit.page.locator("#prompt")).to_have_value(re.compile(word))
        await send(visit)
    assert scene.image().size == (1280, 720)


async def test_a_video_of_ours_restores_its_settings(scene: FormScene) -> None:
    size = f"{WIDTH_PX}*{HEIGHT_PX}"
    spec = JobSpec(prompt="天鹅滑过湖面", seed=77, image_size=size, num_frames=24, infer_steps=33)
    job_id = "c" * 32
    write_video(FolderStore(scene.front.videos.parent), job_id, spec)
    ours = (scene.front.videos / f"{job_id}.mp4").read_bytes()
    async with scene.visit() as visit:
        video = FilePayload(name="swan.mp4", mimeType="video/mp4", buffer=ours)
        await visit.page.set_input_files("#picture-file", video)
        await expect(visit.page.locator("#prompt")).to_have_value(spec.prompt)
        await expect(visit.page.locator("[name=seed]")).to_have_value("77")
        await expect(visit.page.locator("[name=infer_steps]")).to_have_value("33")
        await expect(visit.page.locator("[name=image_size]")).to_have_value(size)
        foreign = FilePayload(name="b.mp4", mimeType="video/mp4", buffer=ours[:99])
        await visit.page.set_input_files("#picture-file", foreign)
        await expect(visit.page.locator("#picture-note")).to_contain_text("no settings")


async def test_the_form_says_when_the_picture_of_a_job_is_gone(scene: FormScene) -> None:
    async with scene.visit() as visit:
        await fill(visit)
        await send(visit)
        for path in scene.front.stored_images():
            path.unlink()
        await visit.page.locator(".card .take").click()
        await expect(visit.page.locator("#picture-note")).to_contain_text("no longer has")
        await expect(visit.page.locator("#picture-crop")).to_be_hidden()
        await visit.page.click("#submit")
        await expect(visit.page.locator("#picture .wrong")).to_be_visible()
        assert len(scene.specs) == 1


CAUSES = {
    "en-GB": ("cannot be reached", "has made a mistake", "API key is missing"),
    "zh-CN": ("无法连接到服务器", "服务器内部出错", "缺少 API 密钥"),
}


@pytest.mark.parametrize("locale", CAUSES)
async def test_a_picture_that_cannot_be_fetched_now_is_not_called_gone(
    scene: FormScene, locale: str
) -> None:
    """The form keeps what it holds, and the visitor reads the cause."""
    async with scene.visit(locale) as visit:
        page = visit.page
        await fill(visit)
        await send(visit)
        await page.fill("#prompt", "Something quite different")
        await page.fill("[name=seed]", "42")
        note = await page.inner_text("#picture-note")
        away, mistake, key = CAUSES[locale]
        for answer, place, cause in (
            (None, "#toasts", away),
            ((500, "internal"), "#toasts", mistake),
            ((401, "unauthorized"), "#problem", key),
        ):
            await answer_for_pictures(page, answer)
            await page.locator(".card .take").click()
            await expect(page.locator(place)).to_contain_text(cause)
            await expect(page.locator("#prompt")).to_have_value("Something quite different")
            await expect(page.locator("[name=seed]")).to_have_value("42")
            await expect(page.locator("#picture-note")).to_have_text(note)
            await expect(page.locator("#picture-crop")).to_be_visible()
        await page.keyboard.press("Escape")
        await answer_for_pictures(page, (410, "image_removed"))
        await page.locator(".card .take").click()
        await expect(page.locator("#prompt")).to_have_value(PROMPT)
        await expect(page.locator("#picture-note.bad")).to_be_visible()


async def answer_for_pictures(page: Page, answer: tuple[int, str] | None) -> None:
    """Answer requests for the picture of a job with a status and an error code, or not at all."""

    async def refuse(route: Route) -> None:
        if answer is None:
            await route.abort()
        else:
            await route.fulfill(status=answer[0], json={"error": {"code": answer[1]}})

    await page.unroute_all()
    await page.route("**/videos/*.input.webp", refuse)


async def test_of_two_videos_the_later_chosen_one_fills_the_form(scene: FormScene) -> None:
    """The picture of the first one arrives last."""
    async with scene.visit() as visit:
        page = visit.page
        await fill(visit)
        await send(visit)
        await page.set_input_files("#picture-file", turned())
        await expect(page.locator("#picture-note")).to_contain_text("turned.jpg")
        await page.fill("#prompt", "Something quite different")
        await send(visit)
        (first, second) = scene.broker.specs
        asked, arrives = asyncio.Event(), asyncio.Event()

        async def hold(route: Route) -> None:
            asked.set()
            await arrives.wait()
            await route.continue_()

        await page.route(f"**/videos/{first}.input.webp", hold)
        await page.locator(f"[data-job='{first}'] .take").click()
        await asked.wait()
        await page.locator(f"[data-job='{second}'] .take").click()
        await expect(page.locator("#picture-note")).to_contain_text("Picture of the video")
        shown = await visit.picture_of("#picture-crop")
        async with page.expect_response(f"**/videos/{first}.input.webp") as answer:
            arrives.set()
        await (await answer.value).finished()
        await expect(page.locator("#prompt")).to_have_value("Something quite different")
        assert await visit.picture_of("#picture-crop") == shown
