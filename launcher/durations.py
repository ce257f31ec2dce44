"""Durations as operators write them: seconds, or numbers with units, such as 30m and 1d12h."""

import re

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = r"[0-9]+(?:\.[0-9]+)?"
_SECONDS = re.compile(rf"{_PART}|{_PART}[eE]\+?[0-9]{{1,2}}")
_WITH_UNITS = re.compile(rf"(?:{_PART}[smhd])+")
_EACH = re.compile(rf"({_PART})([smhd])")


def parse_duration(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: If the text has another form.
    """
    spelt = text.strip().lower()
    if _SECONDS.fullmatch(spelt):
        return float(spelt)
    if _WITH_UNITS.fullmatch(spelt):
        return sum(float(number) * _UNITS_S[unit] for number, unit in _EACH.findall(spelt))
    raise ValueError("expected seconds, or numbers with s, m, h or d, such as 90, 30m, 12h or 7d")


def show_duration(seconds: float) -> str:
    """Return a duration in its largest unit that leaves a whole number."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{seconds / _UNITS_S[unit]:g}{unit}"
    return f"{seconds:g}s"
