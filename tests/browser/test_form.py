"""The form of the page: nothing is replaced silently, and what is wrong is said in place."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs
from playwright.async_api import Browser, FilePayload, expect

from broker.wire.errors import ErrorCode
from broker.wire.model_profile import ModelProfile
from tests.browser.axe import violations
from tests.browser.form_scene import FormScene, fill, form_scene, send
from tests.browser.relay import relay
from tests.browser.visit import PROMPT, as_png, open_visit, stripes
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

TIMES = "\u00d7"
LOCALES = ("en-GB", "zh-CN")
MEASURED = structs.replace(
    found := models_found(ModelProfile(is_demo=True)),
    models=[
        structs.replace(
            found.models[0],
            typical_stage_s={"encode": 20.0, "denoise": 520.0, "decode": 50.0, "save": 10.0},
        )
    ],
)
REFUSALS = (
    (ErrorCode.INVALID_FIELD, "num_frames"),
    (ErrorCode.INVALID_FIELD, "image_size"),
    (ErrorCode.INVALID_FIELD, "prompt"),
    (ErrorCode.INVALID_FIELD, "sample_shift"),
    (ErrorCode.UNSUPPORTED_LAYOUT, "ulysses_size"),
    (ErrorCode.IMAGE_INVALID, "image"),
    (ErrorCode.UNKNOWN_MODEL, None),
    (ErrorCode.QUEUE_FULL, None),
    (ErrorCode.STORAGE_FULL, None),
    (ErrorCode.UNAVAILABLE, None),
    (ErrorCode.INTERNAL, None),
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def measured(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FormScene]:
    """The form of a demo model that has made a video."""
    folder, run_dir = (tmp_path_factory.mktemp(name) for name in "fb")
    async with form_scene(chromium, folder, run_dir, MEASURED) as scene:
        yield scene


async def test_the_seed_is_a_new_one_for_each_video_until_it_is_locked(scene: FormScene) -> None:
    async with scene.visit() as visit:
        seed = visit.page.locator("[name=seed]")
        lock = visit.page.get_by_role("button", name="Keep this seed")
        await fill(visit)
        for _ in range(2):
            await send(visit)
            await expect(seed).to_have_value("")
        await lock.click()
        await expect(lock).to_have_attribute("aria-pressed", "true")
        await send(visit)
        first, second, third = (spec.seed for spec in scene.specs)
        assert first != second
        assert second == third == int(await seed.input_value())
        await visit.page.get_by_role("button", name="Draw another seed").click()
        await expect(seed).not_to_have_value(str(second))
        await lock.click()
        await expect(seed).to_have_value("")


async def test_another_take_has_a_new_seed_and_exactly_again_the_same(scene: FormScene) -> None:
    async with scene.visit() as visit:
        await fill(visit)
        await visit.page.fill("[name=seed]", "42")
        await send(visit)
        await visit.page.locator(".card .take").click()
        await expect(visit.page.locator("[name=seed]")).to_have_value("")
        await visit.page.locator(".card .other").click()
        await visit.page.locator(".card .again").click()
        await expect(visit.page.locator("[name=seed]")).to_have_value("42")
        await visit.reload()
        await expect(visit.page.locator("[name=seed]")).to_be_visible()
        await expect(visit.page.locator("[name=seed]")).to_have_value("42")


async def test_a_section_tells_that_it_differs_from_the_defaults(scene: FormScene) -> None:
    async with scene.visit() as visit:
        badge, reset = visit.page.locator("#creative .changed"), visit.page.locator("#reset")
        await expect(badge).to_be_hidden()
        await expect(reset).to_be_hidden()
        await visit.page.click("#creative summary")
        await visit.page.fill("[name=sample_shift]", "3")
        await visit.page.get_by_role("button", name="usual one").click()
        await visit.page.click("#creative summary")
        await expect(badge).to_be_visible()
        await expect(badge).to_have_text("2 changed")
        await fill(visit)
        await send(visit)
        assert scene.specs[0].negative_prompt == ModelProfile().usual_negative_prompt
        await reset.click()
        await expect(badge).to_be_hidden()
        await expect(visit.page.locator("#prompt")).to_have_value(PROMPT)


async def test_fields_are_hidden_while_their_switch_is_off(scene: FormScene) -> None:
    async with scene.visit() as visit:
        await visit.page.click("#engine summary")
        for switch, name in (("use_attentioncache", "start_step"), ("step_cache", None)):
            field = visit.page.locator(f"[name={name or 'step_cache_threshold'}]")
            await expect(field).to_be_hidden()
            if name is None:
                await visit.page.select_option(f"[name={switch}]", "easycache")
            else:
                await visit.page.check(f"[name={switch}]")
            await expect(field).to_be_visible()


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [("en-GB", "cannot show the file as a picture"), ("zh-CN", "浏览器无法显示此图片")],
)
async def test_no_earlier_picture_takes_the_place_of_a_refused_one(
    scene: FormScene, locale: str, sentence: str
) -> None:
    async with scene.visit(locale) as visit:
        await fill(visit)
        broken = FilePayload(name="notes.png", mimeType="image/png", buffer=b"no picture")
        await visit.page.set_input_files("#picture-file", broken)
        await expect(visit.page.locator("#picture-note")).to_contain_text(sentence)
        await expect(visit.page.locator("#picture-crop")).to_be_hidden()
        await visit.page.click("#submit")
        await expect(visit.page.locator("#picture .wrong")).to_contain_text(sentence)
        assert not scene.specs


@pytest.mark.parametrize(
    ("locale", "sentence"), [("en-GB", "a multiple of 16"), ("zh-CN", "16 的倍数")]
)
async def test_a_size_that_is_missing_or_wrong_is_refused(
    scene: FormScene, locale: str, sentence: str
) -> None:
    async with scene.visit(locale) as visit:
        await fill(visit)
        await visit.page.select_option("[name=image_size]", "other")
        size = visit.page.locator("#setting-other_size")
        for text in ("", "1280", f"1280 {TIMES} 721", "4000*4000"):
            await size.fill(text)
            await visit.page.click("#submit")
            await expect(size).to_have_attribute("aria-invalid", "true")
            await expect(size).to_be_focused()
            await expect(visit.page.get_by_role("alert")).to_contain_text(sentence)
        assert not scene.specs
        await size.fill(f"640 {TIMES} 368")
        await expect(visit.page.get_by_role("alert")).to_have_count(0)
        await send(visit)
        assert scene.specs[0].image_size == "640*368"


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [("en-GB", "600 characters; at most 500"), ("zh-CN", "有 600 个字符")],
)
async def test_a_long_text_is_kept_counted_and_refused(
    scene: FormScene, locale: str, sentence: str
) -> None:
    async with scene.visit(locale) as visit:
        await fill(visit)
        await visit.page.focus("#prompt")
        await visit.page.keyboard.press("ControlOrMeta+A")
        await visit.page.keyboard.insert_text("天鹅" * 300)
        await expect(visit.page.locator("#prompt-count")).to_have_text("600 / 500")
        await visit.page.click("#submit")
        await expect(visit.page.get_by_role("alert")).to_contain_text(sentence)
        assert not scene.specs


@pytest.mark.parametrize("locale", LOCALES)
async def test_refusals_are_said_in_the_language_of_the_page(scene: FormScene, locale: str) -> None:
    async with scene.visit(locale) as visit:
        await fill(visit)
        alert = visit.page.get_by_role("alert")
        for code, field in REFUSALS:
            scene.refuse(code, field)
            await visit.page.click("#submit")
            await expect(alert).to_have_count(1)
            said = await alert.inner_text()
            assert not re.search(r"_|\^|ranks|undefined", said), said
            assert bool(re.search("[一-鿿]", said)) == (locale == "zh-CN"), said
            if field is not None:
                wrong = visit.page.locator("[aria-invalid=true]")
                await expect(wrong).to_be_focused()
            await visit.page.locator("#prompt").press("End")
            await visit.page.fill("#prompt", f"{PROMPT} again")
            await visit.page.evaluate(
                "document.querySelectorAll('[aria-invalid]').forEach((input) =>"
                " input.dispatchEvent(new Event('input', { bubbles: true })))"
            )
            await expect(alert).to_have_count(0)


async def test_a_number_that_is_none_is_refused(scene: FormScene) -> None:
    async with scene.visit() as visit:
        await fill(visit)
        await visit.page.click("#engine summary")
        await visit.page.fill("[name=ulysses_size]", "-3")
        await visit.page.click("#submit")
        await expect(visit.page.locator("[name=ulysses_size]")).to_be_focused()
        await expect(visit.page.get_by_role("alert")).to_contain_text("Leave it on automatic")
        assert not scene.specs


async def test_the_estimate_follows_the_settings_and_needs_a_measurement(
    scene: FormScene, measured: FormScene
) -> None:
    async with scene.visit() as visit:
        await expect(visit.page.locator("#served")).to_have_text(ModelProfile().name)
        await expect(visit.page.locator("#estimate")).to_be_hidden()
    async with measured.visit() as visit:
        estimate = visit.page.locator("#estimate")
        await expect(estimate).to_be_visible()
        await expect(estimate).to_have_text("Takes about 10 min")
        await visit.page.locator("label", has_text=f"{TIMES}4").click()
        await expect(estimate).to_have_text("4 videos, about 40 min together")
        await visit.page.click("label:has(#preset-draft)")
        await expect(estimate).to_have_text("4 videos, about 8 min together")


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
@pytest.mark.parametrize("locale", LOCALES)
async def test_the_button_and_the_model_are_in_view(
    measured: FormScene, size: tuple[int, int], locale: str
) -> None:
    viewport = {"width": size[0], "height": size[1]}
    async with measured.visit(locale, viewport=viewport) as visit:
        await expect(visit.page.locator("#submit")).to_be_in_viewport(ratio=1)
        said = "blurred on purpose" if locale == "en-GB" else "本来就模糊"
        await expect(visit.page.locator("#served")).to_contain_text(said)
        await expect(visit.page.locator("#served")).to_be_in_viewport(ratio=1)
        await visit.drop(as_png(stripes(90, 160)))
        await visit.page.click("#creative summary")
        await expect(visit.page.locator("#submit")).to_be_in_viewport(ratio=1)
        width = await visit.page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= size[0]
        await visit.keep(f"form-{size[0]}-{locale}")


async def test_the_page_works_under_a_prefix_behind_a_proxy(
    chromium: Browser, tmp_path: Path
) -> None:
    """The proxy rewrites the Host header, as many do."""
    async with (
        ScriptedBroker(tmp_path) as broker,
        serve(tmp_path, broker.addresses, allowed_hosts=("localhost",)) as front,
        relay(front.url, "/wan") as port,
        open_visit(chromium, f"http://localhost:{port}/wan/") as visit,
    ):
        sockets: list[str] = []
        visit.page.on("websocket", lambda socket: sockets.append(socket.url))
        await fill(visit)
        async with visit.page.expect_websocket():
            await send(visit)
        assert f":{port}/wan/video/progress" in sockets[0]
        await visit.page.get_by_role("link", name="API").click()
        await visit.page.locator(".opblock-summary").first.wait_for()
        assert visit.page.url.endswith("/wan/docs")


STATES = ("empty", "filled", "open", "wrong")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", LOCALES)
async def test_every_state_of_the_form_is_accessible(
    measured: FormScene, locale: str, scheme: str
) -> None:
    async with measured.visit(locale, color_scheme=scheme) as visit:
        for state in STATES:
            if state == "filled":
                await visit.drop(as_png(stripes(300, 90)))
            elif state == "open":
                await visit.page.click("#creative summary")
                await visit.page.click("#engine summary")
                await visit.page.check("[name=use_attentioncache]")
                await visit.page.fill("[name=ulysses_size]", "-3")
            elif state == "wrong":
                await visit.page.select_option("[name=image_size]", "other")
                await visit.page.click("#submit")
            await visit.keep(f"form-{state}-{locale}-{scheme}")
            found = await violations(visit.page)
            assert not found, f"{state}: {found}"
