"""The messages that the page on troubleshooting quotes are those that the code writes."""

import re
from functools import cache

import pytest

from broker.wire.errors import ErrorCode
from ranks.start_failure import explain_start_failure
from tests.docs.markdown import DOCS, code_in, table
from tests.running_server import ROOT

PAGE = DOCS / "troubleshooting.md"
_SOURCES = [
    path
    for folder in ("broker", "http_front", "launcher", "ranks")
    for path in (ROOT / folder).rglob("*.py")
]
_LEAST_CHARS = 12
"""A shorter piece of a message could stand anywhere."""


def quoted() -> list[str]:
    """Return the messages: all that stands between backticks and has blanks in it."""
    told = [message for row in table(PAGE, "it says") for message in code_in(row[0])]
    prose = re.findall(r"`((?:port|model folder|--state-dir) [^`]+)`", PAGE.read_text())
    return sorted({*told, *prose})


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_written_somewhere(message: str) -> None:
    pieces = [piece.strip() for piece in re.split(r"…|\d+|\bcuda\b|\bnpu\b|\S+:", message)]
    telling = [piece for piece in pieces if len(piece) >= _LEAST_CHARS]
    assert telling, f"{message!r} quotes too little to be found"
    for piece in telling:
        assert piece in written(), piece


def test_the_marks_of_hccl_are_those_that_the_server_explains() -> None:
    for row in table(PAGE, "in the message"):
        for mark in code_in(row[0]):
            assert explain_start_failure(f"RuntimeError: {mark}"), mark


def test_the_codes_are_codes_of_errors() -> None:
    codes = {code.value for code in ErrorCode}
    told = {
        word
        for row in table(PAGE, "symptom")
        for word in code_in(row[0])
        if re.fullmatch("[a-z]+_[a-z_]+", word)
    }
    assert told - {"beat_age_s"} <= codes


@cache
def written() -> str:
    """Return the source of the product, with its messages in one piece."""
    source = "\n".join(path.read_text() for path in _SOURCES)
    return re.sub(r'"\s*\n\s*f?"', "", source)
