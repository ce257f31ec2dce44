"""Limits on open connections: in all, and from one address."""

import ipaddress
import logging
import resource
import time
from collections import Counter

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 2048
MAX_PER_ADDRESS = 512
"""Does not apply to loopback, where a proxy may speak for all clients."""
_RESERVED_FILES = 256
_FILES_PER_CONNECTION = 2  # a socket and the file it sends
_LOG_EVERY_S = 10.0


class ConnectionLimits:
    """Counts the open connections of each address.

    Args:
        max_connections, max_per_address: The limits. There are fewer connections in all where the
            system allows the process too few files.
    """

    def __init__(
        self, max_connections: int = MAX_CONNECTIONS, max_per_address: int = MAX_PER_ADDRESS
    ) -> None:
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._open: Counter[str] = Counter()
        self._num_refused = 0
        self._next_log_s = 0.0

    def open(self, address: str) -> str | None:
        """Count a new connection; return its key for `close`, or None if it exceeds a limit."""
        key = _network(address)
        limit = min(self._max_connections, _num_possible())
        is_full = self._open.total() >= limit
        if is_full or (key and self._open[key] >= self._max_per_address):
            self._log_refusal("of all clients" if is_full else f"from {key}")
            return None
        self._open[key] += 1
        return key

    def close(self, key: str) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def _log_refusal(self, whose: str) -> None:
        self._num_refused += 1
        now_s = time.monotonic()
        if now_s >= self._next_log_s:
            logger.warning("refused %d connections; too many %s", self._num_refused, whose)
            self._num_refused, self._next_log_s = 0, now_s + _LOG_EVERY_S


def _network(address: str) -> str:
    """Return the address, of IPv6 the network that one client has; "" for loopback."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.is_loopback:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return address


def _num_possible() -> int:
    num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if num_files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(num_files - _RESERVED_FILES, num_files // 4) // _FILES_PER_CONNECTION
