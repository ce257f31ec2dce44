"""The tables for operators say what the code does."""

import re
import subprocess
import sys

import msgspec
import pytest

from launcher.durations import parse_duration
from launcher.options import Options
from ranks.environment import DEFAULTS
from tests.bench.cards import table as cards_table
from tests.bench.job_memory import table as memory_table
from tests.docs.markdown import DOCS, code_in, table
from tests.running_server import ROOT

OPERATING = DOCS / "operating.md"
DURATIONS = ("priority_step", "job_ttl", "drain_timeout", "startup_timeout", "step_timeout")
PRODUCT = ("broker", "http_front", "launcher", "ranks")


def test_every_option_is_in_the_table_and_no_other() -> None:
    told = subprocess.run(
        [sys.executable, "launch.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flags = set(re.findall(r"^ +(?:-h, )?(--[a-z0-9-]+)", told, re.M)) - {"--help"}
    rows = [code_in(row[0])[0] for row in table(OPERATING, "option")]
    assert sorted(rows) == sorted(flags)


@pytest.mark.parametrize(
    "field", msgspec.structs.fields(Options), ids=lambda field: str(field.name)
)
def test_an_option_has_the_default_that_the_table_says(field: msgspec.structs.FieldInfo) -> None:
    flag = f"`--{field.name.replace('_', '-')}`"
    told = next(row[1].strip("`") for row in table(OPERATING, "option") if row[0] == flag)
    if isinstance(field.default, bool):
        assert told == ("on" if field.default else "off")
    elif field.name in DURATIONS:
        assert parse_duration(told) == field.default
    elif isinstance(field.default, (int, float)):
        assert told == f"{field.default:g}"
    elif isinstance(field.default, str):
        assert told == field.default
    else:  # what is chosen then, or the rule that holds then
        assert told


def test_the_table_says_what_the_ranks_set_in_the_environment() -> None:
    told = {code_in(name)[0]: value for name, value, _ in _three_columns("variable")}
    assert told == DEFAULTS


def test_every_variable_that_the_code_reads_is_in_the_table() -> None:
    read = {
        name
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'environ(?:\.get\(|\[)"(\w+)"', path.read_text())
    }
    told = {name for row in table(OPERATING, "variable") for name in code_in(row[0])}
    assert "WAN_API_KEY" in read
    assert read <= told


def test_the_memory_of_layouts_is_what_the_server_reckons_with() -> None:
    assert memory_table() in (DOCS / "benchmarks.md").read_text()


def test_the_cards_that_a_model_fits_are_those_of_the_estimate() -> None:
    assert cards_table(1) in (DOCS / "benchmarks.md").read_text()


def _three_columns(first_cell: str) -> list[list[str]]:
    return [row for row in table(OPERATING, first_cell) if len(row) == 3]
