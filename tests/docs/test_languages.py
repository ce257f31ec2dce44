"""What is written in two languages says the same: in headings, in commands, in tables."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, blocks, code_in, headings, tables
from tests.running_server import ROOT

PAIRS = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    (DOCS / "operating.md", DOCS / "zh" / "operating.md"),
    (DOCS / "troubleshooting.md", DOCS / "zh" / "troubleshooting.md"),
]


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


def commands(text: str) -> list[str]:
    """Return the lines without their comments, which are translated."""
    return [re.sub(r"\s*# .*", "", line) for line in text.splitlines()]


def codes(table: list[list[str]]) -> list[list[str]]:
    """Return what each row says in any language: its code and its numbers."""
    return [
        sorted(found for cell in row for found in (*code_in(cell), *_NUMBER.findall(cell)))
        for row in table
    ]
