"""What documents point to is there: other documents, their headings, and files of the code."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, headings
from tests.running_server import ROOT

PAGES = [*ROOT.glob("*.md"), ROOT / "deploy" / "README.md", *DOCS.rglob("*.md")]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`((?:broker|deploy|docs|http_front|launcher|ranks|tests)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text()
    for link in _LINK.findall(text):
        if not link.startswith("http"):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    for name in _CODE.findall(text):
        assert (ROOT / name).exists(), name


def anchors(page: Path) -> set[str]:
    """Return the names under which the headings of a page can be reached."""
    return {
        re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")
        for _, title in headings(page)
    }


def test_the_tests_that_the_makefile_names_are_there() -> None:
    names = re.findall(r"\btests/[\w./-]*\w", (ROOT / "Makefile").read_text())
    assert names
    for name in names:
        assert (ROOT / name).exists(), name
