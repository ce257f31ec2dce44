"""Helpers of the tests of `deploy/`: its files, their commands and the time of a stop."""

import re
from collections.abc import Mapping
from pathlib import Path

from launcher import supervisor
from launcher.command_line import Command, parse_command
from tests.running_server import ROOT

DEPLOY = ROOT / "deploy"
CLIENT_VARIABLES = {"WAN_SERVER", "WAN_API_KEY", "WAN_API_KEYS", "WAN_STATE_DIR"}
"""Variables of the `wan` command; those of the launcher are its options."""


def launched(words: list[str], environ: Mapping[str, str]) -> Command:
    """Parse a command line from a file with the launcher's own parser."""
    start = next(at for at, word in enumerate(words) if re.fullmatch(r"launch(\.py)?", word))
    return parse_command(words[start + 1 :], environ)


def stop_limit_s(command: Command) -> float:
    """Return the longest time of a stop: jobs, then ranks, front and broker."""
    drain_s = 0.0 if command.role == "front" else command.options.drain_timeout
    return drain_s + 5 * supervisor._GRACE_S + supervisor._REPORT_LIMIT_S


def assignments(path: Path) -> dict[str, str]:
    """Return the variables of a file of `NAME=value` lines."""
    lines = (line for line in path.read_text().splitlines() if line and line[0] != "#")
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def shown_commands(page: Path) -> list[str]:
    """Return the commands of a page, each with its continuation lines."""
    shown = re.findall(r"^ *```bash\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    return "".join(shown).replace("\\\n", " ").splitlines()
