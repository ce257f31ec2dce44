"""The form while answers of the server are still under way: no late answer changes a choice."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, Page, Route, expect

from broker.wire.job import Stage
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import GroupView, HealthFound, RankView
from tests.browser.form_scene import FormScene, form_scene
from tests.browser.visit import PROMPT, Visit, as_png, stripes
from tests.http_front.scripted_broker import models_found

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PORTRAIT = FilePayload(name="a.png", mimeType="image/png", buffer=as_png(stripes(90, 160)))
TINY = ("128*128", "24", "20")
STANDARD = ("1280*720", "81", "30")
RANK = RankView(
    rank=0, pid=1, device="cpu", stage=Stage.IDLE, step=0, memory_bytes=0, beat_age_s=0.0
)
GROUP = GroupView(group="g0", epoch=1, ready=True, restarts=0, job_id=None, ranks=[RANK])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demo_server(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FormScene]:
    """The form of a server without accelerators."""
    folder, run_dir = (tmp_path_factory.mktemp(name) for name in "fb")
    models = models_found(ModelProfile(is_demo=True))
    async with form_scene(chromium, folder, run_dir, models) as scene:
        scene.broker.health = HealthFound(
            ready=True, draining=False, queued=0, running=0, groups=[GROUP]
        )
        yield scene


@pytest.fixture
def demo(demo_server: FormScene) -> FormScene:
    demo_server.clear()
    return demo_server


async def reload_until_late(page: Page, path: str) -> asyncio.Event:
    """Reload the page; the answer from a path comes once the event is set."""
    arrives = asyncio.Event()

    async def hold(route: Route) -> None:
        await arrives.wait()
        await route.continue_()

    await page.route(f"**{path}", hold)
    await page.reload(wait_until="commit")
    await page.wait_for_selector("#setting-image_size")
    return arrives


async def choose_picture(visit: Visit, way: str) -> None:
    if way == "dropped":
        await visit.drop(PORTRAIT["buffer"])
        return
    await visit.page.set_input_files("#picture-file", PORTRAIT)
    await visit.page.wait_for_selector("#picture.filled")


async def expect_settings(page: Page, preset: str, wanted: tuple[str, str, str]) -> None:
    await expect(page.locator(f"#preset-{preset}")).to_be_checked()
    names = ("image_size", "num_frames", "infer_steps")
    assert tuple([await page.input_value(f"[name={name}]") for name in names]) == wanted


@pytest.mark.parametrize("way", ["dropped", "chosen"])
@pytest.mark.parametrize("late", ["/health", "/v1/models", None])
async def test_a_server_without_accelerators_proposes_tiny_before_and_after_a_picture(
    demo: FormScene, late: str | None, way: str
) -> None:
    async with demo.visit() as visit:
        if late is None:
            await choose_picture(visit, way)
        else:
            arrives = await reload_until_late(visit.page, late)
            await choose_picture(visit, way)
            arrives.set()
            await visit.ready()
        await expect_settings(visit.page, "tiny", TINY)


async def test_tiny_is_proposed_also_to_who_has_begun_to_write(demo: FormScene) -> None:
    async with demo.visit() as visit:
        arrives = await reload_until_late(visit.page, "/health")
        await visit.page.fill("#prompt", PROMPT)
        arrives.set()
        await visit.ready()
        await expect_settings(visit.page, "tiny", TINY)
        await visit.reload()
        await expect_settings(visit.page, "tiny", TINY)
        await expect(visit.page.locator("#prompt")).to_have_value(PROMPT)


async def test_models_that_are_known_late_change_no_proposal(demo: FormScene) -> None:
    async with demo.visit() as visit:
        page = visit.page

        async def know_none(route: Route) -> None:
            await route.fulfill(json={"data": []})

        await page.route("**/v1/models", know_none)
        await visit.reload()
        await choose_picture(visit, "dropped")
        await expect_settings(page, "tiny", TINY)
        await page.unroute("**/v1/models")
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await expect(page.locator("#served")).to_contain_text("blurred on purpose")
        await expect_settings(page, "tiny", TINY)


@pytest.mark.parametrize("late", ["/health", "/v1/models"])
async def test_no_late_answer_changes_what_was_chosen(demo: FormScene, late: str) -> None:
    async with demo.visit() as visit:
        page = visit.page
        arrives = await reload_until_late(page, late)
        await page.click("label:has(#preset-standard)")
        arrives.set()
        await visit.ready()
        await expect_settings(page, "standard", STANDARD)
        await visit.reload()
        await expect_settings(page, "standard", STANDARD)
        arrives = await reload_until_late(page, late)
        await page.select_option("[name=image_size]", "640*640")
        await page.locator("#shapes label", has_text="16:9").click()
        await choose_picture(visit, "dropped")
        arrives.set()
        await visit.ready()
        assert await page.input_value("[name=image_size]") == "832*480"
        await expect(page.locator("#preset-tiny")).not_to_be_checked()
