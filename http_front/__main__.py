"""Run the HTTP front: `python -m http_front JSON`, where JSON is a `FrontConfig`."""

import asyncio
import logging
import signal
import socket
import sys

import msgspec

from broker.process.child import (
    allow_many_files,
    begin,
    report,
    send_life_signs,
    use_realtime_priority,
)
from broker.store.store import StoreSetupError
from broker.wire.curve import CurveError
from http_front.app import create_app
from http_front.config import FrontConfig
from http_front.http_server import create_runner, start_serving

logger = logging.getLogger("front")


def main() -> int:
    """Return the exit code: 0 after a stop, 1 if the front cannot run."""
    config = msgspec.json.decode(sys.argv[1], type=FrontConfig)
    begin("front", config.parent_pid, config.log_format)
    allow_many_files()
    try:
        if config.realtime_front:
            use_realtime_priority()
        asyncio.run(serve(config))
    except (OSError, CurveError, StoreSetupError) as error:
        logger.error("the front cannot run: %s", error)
        return 1
    return 0


async def serve(config: FrontConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    runner = create_runner(create_app(config), access_log=config.access_log)
    await runner.setup()
    try:
        for listener in _listeners(config):
            await start_serving(runner, listener)
        report(config.ready_fd, "ready")
        life_signs = asyncio.create_task(send_life_signs(config.ready_fd))
        await stop.wait()
        life_signs.cancel()
    finally:
        await runner.cleanup()


def _listeners(config: FrontConfig) -> list[socket.socket]:
    if config.listen_fd is not None:
        inherited = (config.listen_fd, *config.more_listen_fds)
        return [socket.socket(fileno=fd) for fd in inherited]
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    return [socket.create_server((config.host, config.port), family=family)]


if __name__ == "__main__":
    sys.exit(main())
