"""What tests read in a document: its headings, tables and fenced blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.running_server import ROOT

DOCS = ROOT / "docs"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_HEADING = re.compile(r"^(#+) (.+)$", re.M)
_ROW = re.compile(r"^\|(.+)\|$")


@dataclass(frozen=True)
class Block:
    """A fenced block, with the last heading and the last paragraph before it."""

    language: str
    text: str
    heading: str
    before: str


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a document."""
    text, found = path.read_text(), []
    for match in FENCED.finditer(text):
        above = text[: match.start()]
        headings = _HEADING.findall(FENCED.sub("", above))
        before = above.rstrip().rpartition("\n\n")[2]
        found.append(Block(match[1], match[2], headings[-1][1] if headings else "", before))
    return found


def headings(path: Path) -> list[tuple[int, str]]:
    """Return the headings of a document with their depth."""
    return [
        (len(marks), title) for marks, title in _HEADING.findall(FENCED.sub("", path.read_text()))
    ]


def tables(path: Path) -> list[list[list[str]]]:
    """Return the tables of a document, each as rows of cells, without the line under the head."""
    found: list[list[list[str]]] = []
    is_inside = False
    for line in FENCED.sub("", path.read_text()).splitlines():
        row = _ROW.match(line)
        if row is not None:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row[1])]
            if not is_inside:
                found.append([])
            if set("".join(cells)) != {"-"}:
                found[-1].append(cells)
        is_inside = row is not None
    return found


def table(path: Path, first_cell: str) -> list[list[str]]:
    """Return the rows below the head of the table whose head begins with a cell."""
    rows = [rows for rows in tables(path) if rows[0][0] == first_cell]
    assert rows, f"{path} has no table that begins with {first_cell!r}"
    return [row for table in rows for row in table[1:]]


def code_in(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", text)
