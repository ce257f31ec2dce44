"""The walkthrough of the page: every label in it is used, in its order."""

import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Browser, expect

from tests.browser.visit import Visit, open_visit
from tests.docs.markdown import blocks
from tests.docs.walkthrough import WALKTHROUGHS, free_port, reading
from tests.running_server import SAMPLE

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

JOB_LIMIT_MS = 120_000
DOCUMENT = WALKTHROUGHS / "browser.md"


async def test_the_page_works_as_the_walkthrough_says(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    start, stop = blocks(DOCUMENT)
    async with reading(tmp_path_factory.mktemp("w"), port) as reader:
        await reader.do([start])
        async with open_visit(chromium, f"http://127.0.0.1:{port}") as visit:
            for label in re.findall(r"\*\*(.+?)\*\*", DOCUMENT.read_text()):
                await ACTS[label](visit, label)
        await reader.do([stop])


async def choose_picture(visit: Visit, label: str) -> None:
    await see(visit, label)
    await visit.drop(SAMPLE.read_bytes(), "sample.jpg", "image/jpeg")


async def choose_another(visit: Visit, label: str) -> None:
    await visit.page.get_by_role("button", name="Remove", exact=True).click()
    await choose_picture(visit, label)


async def zoom(visit: Visit, label: str) -> None:
    slider = visit.page.get_by_role("slider", name=label, exact=True)
    await slider.fill("2")
    await expect(visit.page.locator("#picture-crop")).to_have_css(
        "transform", "matrix(2, 0, 0, 2, 0, 0)"
    )
    await slider.fill("1")


async def see(visit: Visit, label: str) -> None:
    await expect(visit.page.get_by_text(label, exact=True)).to_be_visible()


async def write(visit: Visit, label: str) -> None:
    prompt = re.search(r"\*(A small .+?)\*", DOCUMENT.read_text())
    assert prompt is not None
    await visit.page.get_by_role("textbox", name=re.compile(label)).fill(prompt[1])


async def choose(visit: Visit, label: str) -> None:
    await visit.page.get_by_role("radio", name=label).check()


async def unfold(visit: Visit, label: str) -> None:
    await visit.page.get_by_text(label, exact=True).click()


async def make(visit: Visit, label: str) -> None:
    await visit.page.get_by_role("button", name=label).click()
    await visit.wait_for(visit.cards.first, "Succeed", JOB_LIMIT_MS)


async def play(visit: Visit, label: str) -> None:
    await expect(visit.cards.first.get_by_role("button", name=label)).to_be_visible()
    await visit.play(visit.cards.first)


async def download(visit: Visit, label: str) -> None:
    async with visit.page.expect_download() as downloading:
        await visit.cards.first.get_by_role("button", name=label).click()
    found = await (await downloading.value).path()
    assert found.read_bytes()[4:8] == b"ftyp"


async def reuse(visit: Visit, label: str) -> None:
    await visit.page.fill("#prompt", "")
    await visit.cards.first.get_by_role("button", name=label).click()
    await expect(visit.page.locator("#prompt")).to_have_value(re.compile("A small "))
    await visit.reload()
    await expect(visit.cards).to_have_count(1)


async def press(visit: Visit, label: str) -> None:
    await visit.cards.first.get_by_role("button", name=label).click()


async def open_menu(visit: Visit, label: str) -> None:
    await press(visit, label)
    await expect(visit.page.locator(".menu:popover-open")).to_have_count(1)
    await visit.page.keyboard.press("Escape")


async def remove(visit: Visit, label: str) -> None:
    await press(visit, "More")
    await press(visit, label)
    await expect(visit.page.locator(".card:visible")).to_have_count(0)


async def bring_back(visit: Visit, label: str) -> None:
    await visit.page.get_by_role("button", name=label).click()
    await expect(visit.page.locator(".card:visible")).to_have_count(1)


async def speak(visit: Visit, label: str) -> None:
    await visit.page.get_by_role("button", name=label).click()
    language = {"中文": "zh", "English": "en"}[label]
    await expect(visit.page.locator("html")).to_have_attribute("lang", re.compile(language))


ACTS: dict[str, Callable[[Visit, str], Awaitable[None]]] = {
    "Drop a picture here, or choose one": choose_picture,
    "Zoom": zoom,
    "Or the address of a picture": choose_another,
    "Prompt": write,
    "Tiny": choose,
    "Creative": unfold,
    "Engine (for operators)": unfold,
    "Make the video": make,
    "Play": play,
    "Download": download,
    "Another take": reuse,
    "More": open_menu,
    "Delete": remove,
    "Undo": bring_back,
    "中文": speak,
    "English": speak,
}
