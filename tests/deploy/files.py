"""What the tests of `deploy/` share: where it is, how long a stop may take, what options are."""

import re
from collections.abc import Mapping
from pathlib import Path

from launcher import supervisor
from launcher.options import Command, parse_command
from tests.running_server import ROOT

DEPLOY = ROOT / "deploy"
OF_WAN = {"WAN_SERVER", "WAN_API_KEY", "WAN_API_KEYS", "WAN_STATE_DIR"}
"""Variables of the `wan` command; the launcher's are its options."""


def launched(words: list[str], environ: Mapping[str, str]) -> Command:
    """Return what a command line that a file holds would start, by the launcher's own parser."""
    start = next(at for at, word in enumerate(words) if re.fullmatch(r"launch(\.py)?", word))
    return parse_command(words[start + 1 :], environ)


def stop_limit_s(command: Command) -> float:
    """Return how long a stop takes at most: jobs, then ranks, front and broker at their slowest."""
    drain_s = 0.0 if command.role == "front" else command.options.drain_timeout
    return drain_s + 5 * supervisor._GRACE_S + supervisor._FAREWELL_S


def assignments(path: Path) -> dict[str, str]:
    """Return the variables of a file of `NAME=value` lines."""
    lines = (line for line in path.read_text().splitlines() if line and line[0] != "#")
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def shown_commands(page: Path) -> list[str]:
    """Return the commands of a page, each with what it continues on the next lines."""
    shown = re.findall(r"^ *```bash\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    return "".join(shown).replace("\\\n", " ").splitlines()
