"""`wan backup`: copy the job journal of a server on this machine."""

import argparse
import asyncio
import os
from pathlib import Path

import zmq

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
        "backup", help="copy the job journal of a server on this machine, while it runs"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="target file; must not exist yet")
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(os.environ.get("WAN_STATE_DIR", DEFAULT_STATE_DIR)),
        help=f"state folder of the server; default: WAN_STATE_DIR, else {DEFAULT_STATE_DIR}",
    )


def run(options: argparse.Namespace, output: Output) -> None:
    """Ask the broker to write the copy: while it runs, only the broker may open the journal.

    Raises:
        FrontError: If the broker refuses or does not run.
    """
    copied = asyncio.run(_back_up(options.state_dir.absolute(), options.file.absolute()))
    fields = {"file": str(options.file), "num_bytes": copied.num_bytes}
    output.result(fields, f"{options.file}: {copied.num_bytes} bytes")


async def _back_up(state_dir: Path, file: Path) -> BackedUp:
    addresses = Addresses.in_folder(state_dir / "run")
    if not (state_dir / "run" / "requests.sock").is_socket():
        raise FrontError(
            ErrorCode.UNAVAILABLE, f"no server was started with --state-dir {state_dir}"
        )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    broker = BrokerClient(context, addresses.requests)
    try:
        copied = await broker.ask(BackUp(path=str(file)), _LIMIT_S)
    finally:
        await broker.close()
        context.term()
    return copied
