"""What `wan` writes: results to standard output, all else to standard error; text or JSON."""

import sys

import msgspec
from rich.console import Console

from http_front.client.exit_codes import Problem


class Output:
    """Writes for people, or with `as_json` for programs, one JSON object a line."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.notes = Console(stderr=True, quiet=as_json, highlight=False, soft_wrap=True)
        """For people alone."""

    def result(self, fields: object, text: str) -> None:
        """Write what the command was run for."""
        _write(msgspec.json.encode(fields).decode() if self.as_json else text)

    def note(self, text: str) -> None:
        """Tell a person what else there is to know."""
        self.notes.print(text, markup=False)

    def fail(self, problem: Problem) -> None:
        """Write why the command has failed."""
        if self.as_json:
            sys.stderr.write(msgspec.json.encode({"error": problem}).decode() + "\n")
        else:
            self.note(f"wan: {problem.message}")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
