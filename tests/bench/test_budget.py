"""A part of a long benchmark that fails is reported, and the other parts run."""

import signal
from pathlib import Path

import pytest

from tests.bench.budget import Parts, read_figures


def fail() -> None:
    raise ValueError("no such kernel")


def lack() -> None:
    raise ModuleNotFoundError("No module named 'flash_attn'", name="flash_attn")


def lack_own() -> None:
    raise ModuleNotFoundError("No module named 'ranks.gone'", name="ranks.gone")


def hang() -> None:
    signal.pause()


def test_a_part_that_fails_or_hangs_leaves_the_others_their_time(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    parts = Parts(path, budget_s=60)
    assert parts.run("failing", 5, fail) is None
    assert parts.run("hanging", 0.05, hang) is None
    assert parts.run("lacking", 5, lack) is None
    assert parts.run("lacking ours", 5, lack_own) is None
    assert parts.run("working", 5, lambda: 7) == 7
    assert parts.failed == ["failing", "hanging", "lacking ours"]
    found = read_figures(path)
    assert found["failing"] == {"failed": "ValueError: no such kernel"}
    assert found["hanging"] == {"failed": "TimeoutError: the part took too long"}
    assert found["lacking"] == {"skipped": "ModuleNotFoundError: No module named 'flash_attn'"}
    assert found["working"] == 7


def test_each_figure_is_on_disk_before_the_next_part_begins(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    parts = Parts(path, budget_s=60)
    parts.run("first", 5, lambda: 1)
    assert parts.run("second", 5, lambda: read_figures(path)) == {"first": 1}


def test_what_a_part_makes_is_no_figure(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    parts = Parts(path, budget_s=60)
    assert parts.make("model", 5, object) is not None
    assert parts.make("other", 5, fail) is None
    assert read_figures(path) == {"model": None, "other": {"failed": "ValueError: no such kernel"}}


def test_nothing_is_begun_when_the_time_is_up(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "found.jsonl", budget_s=0)
    assert parts.run("late", 5, pytest.fail) is None
    assert "no time was left" in parts.found["late"]["failed"]
