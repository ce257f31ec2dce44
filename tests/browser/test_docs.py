"""The API page: its examples are accepted as they are."""

import pytest
from playwright.async_api import Browser, Page, expect

from tests.http_front.serving import Served
from tests.running_server import SAMPLE

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

_OPEN = ".opblock.is-open"


async def test_the_examples_of_a_submit_are_accepted(chromium: Browser, front: Served) -> None:
    page = await chromium.new_page()
    try:
        await page.goto(f"{front.url}/docs")
        await page.locator(".opblock-summary", has_text="/video/submit").click()
        await execute(page)
        await page.locator(f"{_OPEN} .btn-clear").click()
        kind = page.locator(_OPEN).get_by_label("Request content type")
        await kind.select_option("multipart/form-data")
        await page.locator(f"{_OPEN} input[type=file]").first.set_input_files(SAMPLE)
        await execute(page)
    finally:
        await page.close()


async def execute(page: Page) -> None:
    """Send the request; it must be accepted."""
    await page.locator(f"{_OPEN} .execute").click()
    answered = page.locator(f"{_OPEN} .live-responses-table tbody .response-col_status")
    await expect(answered.first).to_contain_text("202")
