"""The argument parser of the `wan` commands."""

import argparse
from typing import Any, NoReturn, TypeAlias

from http_front.client.exit_codes import UsageError


class CommandParser(argparse.ArgumentParser):
    """Adds `--json`, and raises errors so that `wan` reports them like all others."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument("--json", action="store_true", help="print JSON, one object per line")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


# argparse creates the parsers of subcommands from the class of the main parser.
Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
