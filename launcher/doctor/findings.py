"""What an examination of this machine has found, and the command that mends it."""

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    topic: str
    level: Literal["ok", "warning", "error"]
    """`error`: no server starts like this; `warning`: it may fail, or be slow, later."""
    message: str
    mend: str | None = None
    """A command; None where all is well, or no command can mend it."""


def ok(topic: str, message: str) -> Finding:
    """Return that all is well."""
    return Finding(topic=topic, level="ok", message=message)


def warning(topic: str, message: str, mend: str | None = None) -> Finding:
    """Return something that will do harm later."""
    return Finding(topic=topic, level="warning", message=message, mend=mend)


def error(topic: str, message: str, mend: str | None = None) -> Finding:
    """Return something that keeps a server from starting."""
    return Finding(topic=topic, level="error", message=message, mend=mend)


def to_text(finding: Finding) -> str:
    """Return a finding as lines for a person."""
    line = f"{finding.level:8} {finding.topic:12} {finding.message}"
    return line if finding.mend is None else f"{line}\n{'':21} mend it: {finding.mend}"
