"""The form of the page by the model of the video."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, expect

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from tests.browser.visit import PROMPT, Visit, as_png, open_visit, stripes
from tests.http_front.models.profiles import (
    FIRST_AND_LAST,
    FOUR_STEPS,
    SMALL,
    TWO_EXPERTS,
    WAN21,
    WITH_LORAS,
)
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import Served

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PICTURE = FilePayload(name="last.png", mimeType="image/png", buffer=as_png(stripes(160, 90)))


@pytest_asyncio.fixture(loop_scope="session", params=["en-GB", "zh-CN"])
async def choice(
    request: pytest.FixtureRequest, chromium: Browser, front: Served, broker: ScriptedBroker
) -> AsyncIterator[Visit]:
    """The page of a server with several models."""
    broker.models = models_found(WAN21, SMALL, TWO_EXPERTS, FIRST_AND_LAST, FOUR_STEPS, WITH_LORAS)
    async with open_visit(chromium, front.url, locale=request.param) as visit:
        yield visit


async def test_one_model_needs_no_choice(visit: Visit, broker: ScriptedBroker) -> None:
    await expect(visit.page.locator("[name=model]")).to_be_hidden()
    await expect(visit.page.locator("#last")).to_be_hidden()
    card = await visit.submit()
    assert next(iter(broker.specs.values())).model == WAN21.name
    await expect(card.locator(".details")).to_contain_text(WAN21.name)


async def test_the_form_follows_the_model(choice: Visit, broker: ScriptedBroker) -> None:
    page = choice.page
    await page.click("#creative summary")
    await page.click("#engine summary")
    await expect(page.locator("[name=guidance_scale_2]")).to_be_hidden()
    await page.select_option("[name=model]", SMALL.name)
    assert await page.input_value("[name=image_size]") == "1280*704"
    assert await page.input_value("[name=num_frames]") == "121"
    assert await page.input_value("[name=infer_steps]") == "50"
    await expect(page.locator("label[for=setting-num_frames] .count")).to_contain_text("5.0")
    sizes = await page.locator("[name=image_size] option").evaluate_all(
        "(options) => options.map((option) => option.value)"
    )
    assert "1280*720" not in sizes
    await page.select_option("[name=model]", FOUR_STEPS.name)
    steps = page.locator("[name=infer_steps]")
    assert [await steps.get_attribute(limit) for limit in ("min", "max")] == ["1", "8"]
    assert await steps.input_value() == "4"
    for name in ("guidance_scale", "negative_prompt", "use_attentioncache"):
        await expect(page.locator(f"[name={name}]")).to_be_hidden()
    await page.select_option("[name=model]", TWO_EXPERTS.name)
    await expect(page.locator("[name=guidance_scale]")).to_be_visible()
    await page.fill("[name=guidance_scale_2]", "2.5")
    await choice.keep(f"models-{await page.get_attribute('html', 'lang')}", whole=True)
    card = await choice.submit()
    spec = next(reversed(broker.specs.values()))
    assert (spec.model, spec.guidance_scale_2, spec.infer_steps) == (TWO_EXPERTS.name, 2.5, 40)
    await expect(card.locator(".details")).to_contain_text(TWO_EXPERTS.name)


async def test_a_model_that_needs_the_last_frame_gets_it(
    choice: Visit, broker: ScriptedBroker
) -> None:
    page = choice.page
    await page.select_option("[name=model]", FIRST_AND_LAST.name)
    await choice.drop(as_png(stripes(120, 90)))
    await page.fill("#prompt", PROMPT)
    await page.click("#submit")
    await expect(page.locator("#last-picture-file")).to_be_focused()
    missing = (
        "Choose the last frame"
        if await page.get_attribute("html", "lang") == "en"
        else "请选择尾帧"
    )
    await expect(page.locator("#last-picture .wrong")).to_contain_text(missing)
    assert not broker.specs
    await page.set_input_files("#last-picture-file", PICTURE)
    await page.locator("#last-picture.filled").wait_for()
    await page.click("#submit")
    await choice.cards.first.wait_for()
    (job_id,) = broker.specs
    assert broker.last_images[job_id] not in (None, broker.images[job_id])


@pytest.mark.parametrize("is_gone", [False, True])
async def test_both_pictures_of_a_failed_job_come_back_after_a_reload(
    choice: Visit, broker: ScriptedBroker, front: Served, is_gone: bool
) -> None:
    page = choice.page
    await page.select_option("[name=model]", FIRST_AND_LAST.name)
    await page.set_input_files("#last-picture-file", PICTURE)
    await page.locator("#last-picture.filled").wait_for()
    card = await choice.submit()
    (first,) = broker.specs
    await broker.change(first, state=JobState.FAILED, error_code=ErrorCode.GROUP_LOST)
    await choice.reload()
    if is_gone:
        last_image = broker.last_images[first]
        (path,) = [path for path in front.stored_images() if path.name == last_image]
        path.unlink()
    await card.locator(".retry").click()
    if is_gone:
        await expect(page.locator("#picture-note.bad")).to_be_visible()
        await expect(page.locator("#last-picture-note.bad")).to_be_visible()
        assert len(broker.specs) == 1, "nothing takes the place of a picture that is gone"
        return
    await expect(choice.cards).to_have_count(2)
    await card.locator(".take").click()
    await page.locator("#last-picture.filled").wait_for()
    await page.click("#submit")
    await expect(choice.cards).to_have_count(3)
    for pictures in (broker.images, broker.last_images):
        assert len({pictures[job_id] for job_id in broker.specs}) == 1


async def test_a_video_longer_than_trained_is_pointed_out(
    choice: Visit, broker: ScriptedBroker
) -> None:
    page = choice.page
    note = page.locator("#length-note")
    await expect(note).to_be_hidden()
    await page.focus("[name=num_frames]")
    await page.keyboard.press("End")
    await expect(note).to_be_visible()
    await expect(note).to_contain_text("81")
    await page.select_option("[name=model]", SMALL.name)
    await expect(note).to_be_hidden()


async def test_used_settings_bring_their_model(choice: Visit) -> None:
    page = choice.page
    await page.select_option("[name=model]", SMALL.name)
    card = await choice.submit()
    await page.select_option("[name=model]", WAN21.name)
    await card.locator(".other").click()
    await card.locator(".again").click()
    await expect(page.locator("[name=model]")).to_have_value(SMALL.name)
    assert await page.input_value("[name=image_size]") == "1280*704"
    await choice.reload()
    assert await page.input_value("[name=model]") == SMALL.name


async def test_loras_of_the_model_are_chosen_with_a_strength(
    choice: Visit, broker: ScriptedBroker
) -> None:
    page = choice.page
    await page.click("#creative summary")
    loras = page.locator(".loras")
    await expect(loras).to_be_hidden()
    await page.select_option("[name=model]", WITH_LORAS.name)
    boxes = loras.locator("[type=checkbox]")
    assert await boxes.count() == 5
    for number in range(4):
        await boxes.nth(number).check()
    await expect(boxes.nth(4)).to_be_disabled()
    await boxes.nth(3).uncheck()
    await loras.locator("[type=number]").nth(1).fill("-0.5")
    card = await choice.submit()
    spec = next(reversed(broker.specs.values()))
    assert [(lora.name, lora.strength) for lora in spec.loras] == [
        ("anime", 1.0),
        ("board", -0.5),
        ("crayon", 1.0),
    ]
    await boxes.nth(0).uncheck()
    await card.locator(".other").click()
    await card.locator(".again").click()
    await expect(boxes.nth(0)).to_be_checked()
    assert await loras.locator("[type=number]").nth(1).input_value() == "-0.5"
