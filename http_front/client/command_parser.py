"""The parser that each command of `wan` is described by."""

import argparse
from typing import Any, NoReturn, TypeAlias

from http_front.client.exit_codes import UsageError


class CommandParser(argparse.ArgumentParser):
    """Knows `--json`, and raises what it finds wrong, so that it is told as other errors are."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument("--json", action="store_true", help="print JSON, one object a line")

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message}; see {self.prog} --help")


# argparse makes the parsers of commands from the class of the parser that has them.
Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
