"""Run the HTTP front: `python -m http_front JSON`, where JSON is a `FrontConfig`."""

import asyncio
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
        await _site(runner, config).start()
        for fd in config.more_listen_fds:
            await web.SockSite(runner, socket.socket(fileno=fd)).start()
        report(config.ready_fd, "ready")
        await stop.wait()
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, config: FrontConfig) -> web.BaseSite:
    if config.listen_fd is None:
        return web.TCPSite(runner, config.host, config.port)
    return web.SockSite(runner, socket.socket(fileno=config.listen_fd))


if __name__ == "__main__":
    main()
