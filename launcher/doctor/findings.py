"""The results of the checks of this machine, each with the command that fixes it."""

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check."""

    topic: str
    level: Literal["ok", "warning", "error"]
    """`error`: a server cannot start; `warning`: it may fail later, or be slow."""
    message: str
    fix: str | None = None
    """A command; None if nothing is wrong, or no single command helps."""


def ok(topic: str, message: str) -> Finding:
    return Finding(topic=topic, level="ok", message=message)


def warning(topic: str, message: str, fix: str | None = None) -> Finding:
    return Finding(topic=topic, level="warning", message=message, fix=fix)


def error(topic: str, message: str, fix: str | None = None) -> Finding:
    return Finding(topic=topic, level="error", message=message, fix=fix)


def to_text(finding: Finding) -> str:
    line = f"{finding.level:8} {finding.topic:12} {finding.message}"
    return line if finding.fix is None else f"{line}\n{'':21} fix: {finding.fix}"
