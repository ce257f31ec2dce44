"""Run the HTTP front: `python -m http_front JSON`, where JSON is a `FrontConfig`."""

import asyncio
import gc
import signal
import socket
import sys

import msgspec
from aiohttp import web

from broker.process.child import allow_many_files, begin, report, use_realtime_priority
from http_front.app import create_app
from http_front.config import FrontConfig
from http_front.http_server import create_runner


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=FrontConfig)
    begin("front", config.parent_pid, config.log_format)
    allow_many_files()
    if config.realtime_front:
        use_realtime_priority()
    asyncio.run(serve(config))


async def serve(config: FrontConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    runner = create_runner(create_app(config))
    await runner.setup()
    try:
        keep_collections_short()
        await _site(runner, config).start()
        report(config.ready_fd, "ready")
        await stop.wait()
    finally:
        await runner.cleanup()


def keep_collections_short() -> None:
    """Exempt what lives as long as the process from garbage collection.

    A full collection would stop the front for tens of milliseconds. It would also wait until
    garbage makes up a quarter of all objects: the memory would grow by megabytes for minutes.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # the quarter counts from this one, which finds next to nothing


def _site(runner: web.AppRunner, config: FrontConfig) -> web.BaseSite:
    if config.listen_fd is None:
        return web.TCPSite(runner, config.host, config.port)
    return web.SockSite(runner, socket.socket(fileno=config.listen_fd))


if __name__ == "__main__":
    main()
