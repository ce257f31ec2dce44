"""Start the server: one broker, one HTTP front, and groups of ranks; watch, restart and stop them.

`python launch.py --nproc 8 --model-path FOLDER` is the operators' command; `--demo` needs no model.
"""

import asyncio
import logging
import os
import socket
import sys

from broker.log import configure_logging
from launcher.doctor import report
from launcher.options import Options, OptionsError, parse_command, to_toml
from launcher.preflight import (
    Folders,
    StartError,
    check_access,
    check_device,
    listen,
    lock_state,
    model_folder,
    prepare_folders,
)
from launcher.supervisor import Plan, Supervisor
from ranks.model_folder import num_attention_heads

logger = logging.getLogger("launcher")


def main() -> int:
    """Run the command; return its exit code: 0 as asked, 1 failed, 2 wrong options."""
    try:
        command = parse_command(sys.argv[1:], os.environ)
    except OptionsError as error:
        sys.stderr.write(f"launch.py: {error}\n")
        return 2
    options = command.options
    if command.action == "print-config":
        sys.stdout.write(to_toml(options) + "\n")
        return 0
    if command.action == "check":
        return report(options)
    configure_logging("launcher", options.log_format)
    try:
        return start(options)
    except StartError as error:
        sys.stderr.write(f"launch.py: {error}\n")
        return 1


def start(options: Options) -> int:
    """Check everything that can be checked beforehand, then run the server until its stop.

    Raises:
        StartError: If the server cannot start; nothing has been started then.
    """
    check_access(options)
    folders = Folders.under(options.state_dir)
    addresses = prepare_folders(folders)
    lock = lock_state(folders)
    with listen(options) as listener:
        check_device(options)
        model = model_folder(options, folders)
        plan = Plan(
            options=options,
            folders=folders,
            addresses=addresses,
            model=model,
            num_heads=num_attention_heads(model),
            pid=os.getpid(),
        )
        exit_code = asyncio.run(_supervise(plan, listener))
    os.close(lock)  # kept open until here: it is the claim on the state directory
    return exit_code


async def _supervise(plan: Plan, listener: socket.socket) -> int:
    return await Supervisor(plan, listener).run()


if __name__ == "__main__":
    sys.exit(main())
