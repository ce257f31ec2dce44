"""The page with a whole server: eight ranks, a restart and a video to play."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.visit import open_visit
from tests.running_server import RunningServer, running_server

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

JOB_LIMIT_MS = 120_000


@pytest.fixture
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "state"


@pytest_asyncio.fixture(loop_scope="session")
async def server(state_dir: Path) -> AsyncIterator[RunningServer]:
    async with running_server(state_dir) as server:
        yield server


async def test_jobs_survive_a_reload_of_the_page_and_a_restart_of_the_server(
    chromium: Browser, server: RunningServer, state_dir: Path
) -> None:
    async with open_visit(chromium, server.url) as visit:
        await visit.keep("empty")
        await expect(visit.page.locator("#preset-tiny")).to_be_checked()
        card = await visit.submit()
        await card.locator("img.live").wait_for(timeout=JOB_LIMIT_MS)
        await visit.keep("running")
        await visit.wait_for(card, "Succeed", JOB_LIMIT_MS)
        await visit.play(card)
        await visit.keep("playing")

        await visit.page.locator("[name=infer_steps]").evaluate("(slider) => (slider.value = 100)")
        running = await visit.submit()
        await visit.wait_for(running, "InProgress", JOB_LIMIT_MS)
        waiting = await visit.submit("Another boat drifts over the same calm bay")
        await visit.wait_for_text(".status", "next in the queue")
        await visit.reload()
        await expect(visit.cards).to_have_count(3)
        await visit.keep("gallery", whole=True)
        await waiting.get_by_role("button", name="Cancel").click()
        await expect(visit.page.locator("[data-state=Cancelled]")).to_have_count(1)

        port = server.url.rpartition(":")[2]
        assert await server.stop(JOB_LIMIT_MS) == 0
        await visit.wait_for_text("#server", "No connection")
        async with running_server(state_dir, "--port", port):
            await visit.wait_for_text("#server", "Ready")
            await expect(visit.cards).to_have_count(3)
            await expect(visit.page.locator("[data-state=Succeed]")).not_to_have_count(0)
            await visit.keep("restarted", whole=True)
