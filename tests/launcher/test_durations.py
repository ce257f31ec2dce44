"""Durations as operators write them."""

import pytest

from launcher.command_line import parse_command, to_toml
from launcher.durations import parse_duration, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("0", 0.0),
        ("2.5", 2.5),
        ("1e3", 1000.0),
        ("30s", 30.0),
        ("30m", 1800.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        ("7d", 604_800.0),
        ("1d12h", 129_600.0),
        (" 7D ", 604_800.0),
    ],
)
def test_a_duration_is_seconds_or_has_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "h", "1w", "1h30", "inf", "nan", "1 h", "1e999"])
def test_another_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90, 30m, 12h or 7d"):
        parse_duration(text)


def test_every_duration_takes_units_from_everywhere_and_is_printed_as_a_number() -> None:
    flags = ["--job-ttl", "7d", "--drain-timeout", "10m", "--priority-step", "1h"]
    environ = {"WAN_STARTUP_TIMEOUT": "30m", "WAN_STEP_TIMEOUT": "1m"}
    options = parse_command(flags, environ).options
    assert (options.job_ttl, options.drain_timeout) == (604_800.0, 600.0)
    assert (options.priority_step, options.startup_timeout) == (3600.0, 1800.0)
    assert options.step_timeout == 60.0
    assert "job_ttl = 604800.0" in to_toml(options)


def test_a_duration_is_shown_in_its_largest_whole_unit() -> None:
    shown = [show_duration(seconds) for seconds in (0.0, 45.0, 60.0, 5400.0, 3600.0, 604_800.0)]
    assert shown == ["0s", "45s", "1m", "90m", "1h", "7d"]
