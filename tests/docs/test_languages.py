"""What is written in two languages says the same: headings, paragraphs, commands, tables, links."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, FENCED, blocks, code_in, headings, tables
from tests.running_server import ROOT

ZH = DOCS / "zh"
PAIRS = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    *((DOCS / page.relative_to(ZH), page) for page in sorted(ZH.rglob("*.md"))),
]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(params=PAIRS, ids=lambda pair: str(pair[0].relative_to(ROOT)))
def pair(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    found: tuple[Path, Path] = request.param
    return found


def test_both_have_the_same_headings(pair: tuple[Path, Path]) -> None:
    english, chinese = ([depth for depth, _ in headings(page)] for page in pair)
    assert english == chinese


def test_both_have_the_same_commands(pair: tuple[Path, Path]) -> None:
    english, chinese = ([commands(block.text) for block in blocks(page)] for page in pair)
    assert english == chinese


def test_both_have_the_same_tables(pair: tuple[Path, Path]) -> None:
    english, chinese = ([codes(table) for table in tables(page)] for page in pair)
    assert english == chinese


def test_both_have_as_many_paragraphs(pair: tuple[Path, Path]) -> None:
    english, chinese = (paragraphs(page) for page in pair)
    assert english == chinese


def test_both_lead_to_the_same_pages(pair: tuple[Path, Path]) -> None:
    english, chinese = (targets(page) for page in pair)
    assert english == chinese


def paragraphs(page: Path) -> dict[str, int]:
    """Return by number of the heading how many paragraphs and lists are below it."""
    sections = re.split(r"^#+ .*$", FENCED.sub("", page.read_text()), flags=re.M)
    return {
        str(number): len(re.findall(r"\S(?:.*\n)+", section))
        for number, section in enumerate(sections)
    }


def targets(page: Path) -> list[str]:
    """Return where links lead: a page of either language counts as the English one."""
    found = []
    for link in _LINK.findall(page.read_text()):
        name = link.partition("#")[0]
        target = (page.parent / name).resolve() if name else page
        found.append(link if "://" in link else str(target).replace("/zh/", "/").replace(".zh", ""))
    return sorted(found)


def commands(text: str) -> list[str]:
    """Return the lines without their comments, which are translated."""
    return [re.sub(r"\s*# .*", "", line) for line in text.splitlines()]


def codes(table: list[list[str]]) -> list[list[str]]:
    """Return what each row says in any language: its code and its numbers."""
    return [
        sorted(found for cell in row for found in (*code_in(cell), *_NUMBER.findall(cell)))
        for row in table
    ]
