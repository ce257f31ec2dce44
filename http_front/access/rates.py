"""Rate limits."""

import ipaddress
import math
from collections import OrderedDict

from http_front.access.keys import Limits


class TokenBucket:
    """Allows `count` events per `period_s`. A full bucket allows all of them at once."""

    def __init__(self, count: int, period_s: float) -> None:
        self._count = count
        self._per_s = count / period_s
        self._left = float(count)
        self._seen_s = -math.inf

    def take(self, now_s: float) -> float:
        """Return 0.0 if the event may happen now, else the seconds to wait."""
        elapsed_s = max(0.0, now_s - self._seen_s)
        self._left = min(float(self._count), self._left + elapsed_s * self._per_s)
        self._seen_s = now_s
        if self._left < 1.0:
            return (1.0 - self._left) / self._per_s
        self._left -= 1.0
        return 0.0


class KeyRates:
    """The buckets of one key."""

    def __init__(self, limits: Limits) -> None:
        self.submits = TokenBucket(limits.submits_per_minute, 60.0)
        self.requests = TokenBucket(limits.requests_per_second, 1.0)


class AddressRates:
    """One token bucket per client address.

    Args:
        count, period_s: See `TokenBucket`.
        max_addresses: Number of addresses to keep; the least recent are dropped.
    """

    def __init__(self, count: int, period_s: float, max_addresses: int) -> None:
        self._count = count
        self._period_s = period_s
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, now_s: float) -> float:
        """Take a token from the bucket of an address; see `TokenBucket.take`."""
        client = client_of(address)
        bucket = self._buckets.setdefault(client, TokenBucket(self._count, self._period_s))
        self._buckets.move_to_end(client)
        if len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
        return bucket.take(now_s)


def client_of(address: str) -> str:
    """Return the address; for IPv6 its /64 network, because one client usually owns all of it."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
