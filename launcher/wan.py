"""The `wan` command of a server's installation: jobs, and the operators' tools."""

import argparse
import sys

from broker.process.standard_streams import open_missing_streams, run_main
from http_front.client import backup_command, key_commands, wan_command
from http_front.client.command_parser import Commands
from http_front.client.exit_codes import UsageError
from http_front.client.output import Output
from http_front.client.wan_command import Tool
from launcher import model_command
from launcher.doctor import doctor


def main() -> int:
    return run_main(lambda: _run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    open_missing_streams()
    # They have parsers of their own.
    if words[:1] == ["doctor"]:
        return doctor.main(words[1:])
    if words[:1] == ["model"]:
        return model_command.main(words[1:])
    return wan_command.run(words, _TOOLS)


def _add_model(commands: Commands) -> None:
    commands.add_parser("model", help="show what a model on this machine is: wan model inspect")


def _add_doctor(commands: Commands) -> None:
    commands.add_parser("doctor", help="check whether a server can start on this machine")


def _run_first(options: argparse.Namespace, _output: Output) -> None:
    # Only an option before its name leads here.
    raise UsageError(f"options of wan {options.command} come after its name")


_TOOLS = {
    "keys": Tool(key_commands.add_parser, key_commands.run),
    "backup": Tool(backup_command.add_parser, backup_command.run),
    "model": Tool(_add_model, _run_first),
    "doctor": Tool(_add_doctor, _run_first),
}


if __name__ == "__main__":
    sys.exit(main())
