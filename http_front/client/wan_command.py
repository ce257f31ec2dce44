"""The `wan` command: jobs on a server, and whatever else the installation adds.

The distribution `wan-client` has the commands for jobs alone, and needs no torch.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.process.installed_version import installed_version
from broker.process.standard_streams import open_missing_streams, run_main
from http_front.access.keys import KeyFileError
from http_front.client import job_commands
from http_front.client.client import ClientError
from http_front.client.command_parser import CommandParser, Commands
from http_front.client.exit_codes import MEANINGS, ExitCode, LeftRunningError, UsageError, explain
from http_front.client.output import Output
from http_front.errors import FrontError


class Tool(NamedTuple):
    """A command besides those for jobs."""

    add_parser: Callable[[Commands], None]
    run: Callable[[argparse.Namespace, Output], None]


def main() -> int:
    """Run the command of the distribution `wan-client`."""
    return run_main(lambda: run(sys.argv[1:], {}))


def run(words: Sequence[str], tools: dict[str, Tool]) -> int:
    """Return the exit code of a command line; `tools` are further commands, by their names."""
    open_missing_streams()
    output = Output(as_json="--json" in words)
    try:
        options = _parser(tools).parse_args(words)
        if options.command not in tools:
            return asyncio.run(job_commands.run(options, output))
        tools[options.command].run(options, output)
    except BrokenPipeError:
        raise  # no file of the command: the reader of its output has ended
    except (FrontError, ClientError, KeyFileError, OSError, UsageError, LeftRunningError) as error:
        exit_code, problem = explain(error)
        output.fail(problem)
        return exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def _parser(tools: dict[str, Tool]) -> CommandParser:
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
    for tool in tools.values():
        tool.add_parser(commands)
    return parser


def _epilog() -> str:
    codes = "".join(f"  {code:<4} {meaning}\n" for code, meaning in MEANINGS.items())
    return (
        f"exit codes:\n{codes}\n"
        "With --json, results are JSON objects on standard output, one per line, and an error\n"
        'is {"error": {"code", "message", "field"}} on standard error.'
    )
