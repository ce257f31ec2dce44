"""The walkthroughs, done word for word; that of the browser is among the browser tests."""

from pathlib import Path

import pytest

from tests.docs.walkthrough import WALKTHROUGHS, check_shown, free_port, reading


@pytest.mark.parametrize("name", ["first-video", "api", "operating", "moving"])
async def test_a_walkthrough_can_be_walked(name: str, tmp_path: Path) -> None:
    async with reading(tmp_path, free_port()) as reader:
        await reader.follow(WALKTHROUGHS / f"{name}.md")


def test_every_walkthrough_is_tried() -> None:
    tried = {"first-video", "api", "operating", "moving", "browser"}
    assert {path.stem for path in WALKTHROUGHS.glob("*.md")} == tried


def test_what_is_not_shown_as_written_is_found() -> None:
    check_shown("one …\nthree\n", "one two\nand\nthree\n")
    for expected in ("three\none …\n", "tw\n", "one … four\n"):
        with pytest.raises(AssertionError, match="was not shown"):
            check_shown(expected, "one two\nand\nthree\n")
