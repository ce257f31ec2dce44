"""Output of `wan`: results on standard output, notes and errors on standard error."""

import io
import sys

import msgspec
from rich.console import Console

from http_front.client.exit_codes import Problem


class Output:
    """Writes text for people, or with `as_json` one JSON object per line for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # A terminal whose character set lacks a prompt's characters shows their escapes.
        if isinstance(sys.stdout, io.TextIOWrapper):
            encoding = "utf-8" if as_json else None
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
        self.notes = Console(stderr=True, quiet=as_json, highlight=False, soft_wrap=True)
        """Console on standard error; silent with `as_json`."""

    def result(self, fields: object, text: str) -> None:
        """Write the result of the command: `fields` as JSON, or `text`."""
        _write(msgspec.json.encode(fields).decode() if self.as_json else text)

    def note(self, text: str) -> None:
        self.notes.print(text, markup=False)

    def fail(self, problem: Problem) -> None:
        if self.as_json:
            sys.stderr.write(msgspec.json.encode({"error": problem}).decode() + "\n")
        else:
            self.note(f"wan: {problem.message}")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
