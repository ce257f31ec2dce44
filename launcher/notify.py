"""Reports the launcher's state to systemd, with the datagrams of sd_notify(3)."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

logger = logging.getLogger("launcher")

_SEND_LIMIT_S = 1.0


class ServiceManager:
    """Notifies the service manager of a `Type=notify` unit; does nothing outside of one.

    Args:
        environ: Where `NOTIFY_SOCKET` and `WATCHDOG_USEC` are looked up.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract namespace, not in a folder.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6

    def notify(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`; a failure to send is only logged."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_LIMIT_S)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            logger.warning("NOTIFY_SOCKET: cannot send %s: %s", assignments[0], error)

    async def feed_watchdog(self, is_well: Callable[[], bool]) -> None:
        """Feed systemd's watchdog while all is well; without a watchdog, return."""
        # Twice per watchdog interval, so that one report may be late.
        while self._watchdog_s:
            if is_well():
                self.notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)
