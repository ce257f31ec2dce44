"""Checks a page with axe-core, which the extra `browser` brings."""

from importlib.resources import files

from playwright.async_api import Page


async def violations(page: Page) -> list[str]:
    """Return each rule that the page breaks, with the elements."""
    await page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {[node['html'][:200] for node in rule['nodes']]}"
        for rule in found["violations"]
    ]
