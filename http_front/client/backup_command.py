"""`wan backup`: copy the job journal of a server on this machine, whether it runs or not."""

import argparse
import asyncio
import os
from pathlib import Path

import zmq

from broker.process.stopped_journal import JOURNAL, copy_journal, is_in_use
from broker.wire.errors import ErrorCode
from broker.wire.replies import BackedUp
from broker.wire.requests import BackUp
from broker.wire.sockets import Addresses
from http_front.broker_client import BrokerClient
from http_front.client.command_parser import Commands
from http_front.client.output import Output
from http_front.errors import FrontError

DEFAULT_STATE_DIR = "state"
_LIMIT_S = 60.0


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "backup", help="copy the job journal of a server on this machine, whether it runs or not"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="target file; must not exist yet")
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(os.environ.get("WAN_STATE_DIR", DEFAULT_STATE_DIR)),
        help=f"state folder of the server; default: WAN_STATE_DIR, else {DEFAULT_STATE_DIR}",
    )


def run(options: argparse.Namespace, output: Output) -> None:
    """Write the copy, or have the broker write it: only the broker may open its journal.

    Raises:
        FrontError: If there is no journal, or it cannot be copied.
    """
    state_dir, file = options.state_dir.absolute(), options.file.absolute()
    if is_in_use(state_dir):
        num_bytes = asyncio.run(_back_up(state_dir, file)).num_bytes
    else:
        num_bytes = _copy_stopped(state_dir, file)
    output.result(
        {"file": str(options.file), "num_bytes": num_bytes}, f"{options.file}: {num_bytes} bytes"
    )


def _copy_stopped(state_dir: Path, file: Path) -> int:
    if not (state_dir / JOURNAL).exists():
        raise FrontError(
            ErrorCode.UNAVAILABLE, f"no server was started with --state-dir {state_dir}"
        )
    report = copy_journal(state_dir, file)
    if report.problem is not None:
        raise FrontError(ErrorCode.INVALID_FIELD, report.problem)
    return report.num_bytes


async def _back_up(state_dir: Path, file: Path) -> BackedUp:
    addresses = Addresses.in_folder(state_dir / "run")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    broker = BrokerClient(context, addresses.requests)
    try:
        copied = await broker.ask(BackUp(path=str(file)), _LIMIT_S)
    finally:
        await broker.close()
        context.term()
    return copied
