"""Start the server: one broker, one HTTP front and groups of ranks. Supervise and stop them.

`python launch.py --nproc 8 --model-path FOLDER` starts a server; `--demo` needs no model.
`launch.py group --join …` and `launch.py front --join …` add groups and fronts on other machines.
"""

import broker.process.import_path  # noqa: F401 (first, it decides where all others come from)

# isort: split
import asyncio
import logging
import os
import signal
import socket
import sys
import time
from types import FrameType

from broker.process.child import UNFIT_EXIT_CODE
from broker.process.installed_version import installed_version
from broker.process.log import configure_logging
from broker.process.standard_streams import open_missing_streams, run_main
from broker.wire.curve import CurveError
from broker.wire.errors import BindError
from launcher.command_line import parse_command, to_toml
from launcher.doctor.doctor import report
from launcher.notify import ServiceManager
from launcher.options import OptionsError
from launcher.outer_variables import ignore_outer_variables
from launcher.plan import Plan
from launcher.preflight import StartError, UnfitModelError
from launcher.preparation import prepared
from launcher.supervisor import Supervisor

logger = logging.getLogger("launcher")


class StoppedError(Exception):
    """Raised when a signal arrives before any process has started."""


def main() -> int:
    """Return the exit code: 0 for success, 1 for a failure, 2 for invalid options, 78 for files."""
    begun_s = time.monotonic()
    open_missing_streams()
    try:
        command = parse_command(sys.argv[1:], os.environ)
    except OptionsError as error:
        sys.stderr.write(f"launch.py: {error}\n")
        return 2
    options = command.options
    ignored = ignore_outer_variables(os.environ)
    if command.action == "print-config":
        sys.stdout.write(to_toml(options) + "\n")
        return 0
    if command.action == "check":
        return report(command)
    configure_logging("launcher", options.log_format)
    logger.info("wan-ranks %s", installed_version())
    for note in command.notes:
        logger.warning("%s", note)
    if ignored:
        logger.info("ignored variables of the environment: %s", ", ".join(ignored))
    # The supervisor installs its own handlers once it runs.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_preparing)
    try:
        with prepared(command) as (plan, listener):
            return asyncio.run(_supervise(plan, listener, begun_s))
    except (StartError, BindError, CurveError) as error:
        logging.shutdown()  # what waits to be logged: the reason comes last
        sys.stderr.write(f"launch.py: {error}\n")
        return UNFIT_EXIT_CODE if isinstance(error, UnfitModelError) else 1
    except StoppedError as stop:
        logger.info("%s: stopped before any process was started", stop)
        return 0


def _stop_preparing(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(signal.Signals(number).name)


async def _supervise(plan: Plan, listener: socket.socket | None, begun_s: float) -> int:
    return await Supervisor(plan, listener, ServiceManager(os.environ), begun_s).run()


if __name__ == "__main__":
    sys.exit(run_main(main))
