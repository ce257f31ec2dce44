"""Tells systemd how the launcher is: the datagrams of sd_notify(3)."""

import asyncio
import logging
import socket
from collections.abc import Mapping

logger = logging.getLogger("launcher")

_SEND_LIMIT_S = 1.0


class ServiceManager:
    """Whoever runs the launcher as a service of `Type=notify`; nobody if the variables are unset.

    Args:
        environ: Where `NOTIFY_SOCKET` and `WATCHDOG_USEC` are looked up.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        place = environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract namespace, not in a folder.
        self._address = f"\0{place[1:]}" if place.startswith("@") else place
        self._watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6

    def tell(self, *news: str) -> None:
        """Send assignments such as `READY=1`; one that is not heard is logged, and no more."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_LIMIT_S)
                sender.sendto("\n".join(news).encode(), self._address)
        except OSError as error:
            logger.warning("NOTIFY_SOCKET: cannot tell %s: %s", news[0], error)

    async def pacify_watchdog(self) -> None:
        """Show again and again that the event loop runs, if there is a watchdog that waits for it.

        Two signs fall into its limit, so that one may be late.
        """
        while self._watchdog_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)
