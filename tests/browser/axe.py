"""Checks a page with axe-core, where the package that brings it is installed."""

import importlib.util
from pathlib import Path

import pytest
from playwright.async_api import Page

_PACKAGE = "axe_playwright_python"


async def violations(page: Page) -> list[str]:
    """Return each rule that the page breaks, with the elements."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("axe-core is not installed; fix: pip install axe-playwright-python")
    await page.evaluate((Path(spec.origin).parent / "axe.min.js").read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {[node['html'][:200] for node in rule['nodes']]}"
        for rule in found["violations"]
    ]
