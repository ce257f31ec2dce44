"""The `wan` command: runs jobs on a server, and holds the operators' tools."""

import argparse
import asyncio
import sys

from broker.process.installed_version import installed_version
from broker.process.standard_streams import open_missing_streams, run_main
from http_front.access.keys import KeyFileError
from http_front.client import backup_command, job_commands, key_commands
from http_front.client.client import ClientError
from http_front.client.command_parser import CommandParser
from http_front.client.exit_codes import MEANINGS, ExitCode, LeftRunningError, UsageError, explain
from http_front.client.output import Output
from http_front.errors import FrontError
from launcher import model_command
from launcher.doctor import doctor


def main() -> int:
    return run_main(_main)


def _main() -> int:
    open_missing_streams()
    words = sys.argv[1:]
    if words[:1] == ["doctor"]:
        return doctor.main(words[1:])
    if words[:1] == ["model"]:
        return model_command.main(words[1:])
    output = Output(as_json="--json" in words)
    try:
        return _run(make_parser().parse_args(words), output)
    except BrokenPipeError:
        raise  # not a file of the command: the reader of its output has ended
    except (FrontError, ClientError, KeyFileError, OSError, UsageError, LeftRunningError) as error:
        exit_code, problem = explain(error)
        output.fail(problem)
        return exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="wan",
        description="Make videos from images on a wan-ranks server.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"wan {installed_version()}",
        help="print the version",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    job_commands.add_parsers(commands)
    key_commands.add_parser(commands)
    backup_command.add_parser(commands)
    commands.add_parser("model", help="show what a model on this machine is: wan model inspect")
    commands.add_parser("doctor", help="check whether a server can start on this machine")
    return parser


def _epilog() -> str:
    codes = "".join(f"  {code:<4} {meaning}\n" for code, meaning in MEANINGS.items())
    return (
        f"exit codes:\n{codes}\n"
        "With --json, results are JSON objects on standard output, one per line, and an error\n"
        'is {"error": {"code", "message", "field"}} on standard error.'
    )


def _run(options: argparse.Namespace, output: Output) -> ExitCode:
    match options.command:
        case "keys":
            key_commands.run(options, output)
        case "backup":
            backup_command.run(options, output)
        case _:
            return asyncio.run(job_commands.run(options, output))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
