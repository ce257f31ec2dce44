"""How often something may happen."""

import ipaddress
import math
from collections import OrderedDict

from http_front.access.keys import Limits


class TokenBucket:
    """Lets `count` things happen in `period_s`, all of them at once if none did before."""

    def __init__(self, count: int, period_s: float) -> None:
        self._count = count
        self._per_s = count / period_s
        self._left = float(count)
        self._seen_s = -math.inf

    def take(self, now_s: float) -> float:
        """Return 0.0 if it may happen now, else after how many seconds it may."""
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
    """A bucket for each address that requests come from, of the latest addresses only.

    Args:
        count, period_s: As for a `TokenBucket`.
        max_addresses: How many are remembered.
    """

    def __init__(self, count: int, period_s: float, max_addresses: int) -> None:
        self._count = count
        self._period_s = period_s
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, now_s: float) -> float:
        """Return what the bucket of an address says."""
        site = _site(address)
        bucket = self._buckets.setdefault(site, TokenBucket(self._count, self._period_s))
        self._buckets.move_to_end(site)
        if len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
        return bucket.take(now_s)


def _site(address: str) -> str:
    """Return the address, or the /64 that it is in: whoever has one of IPv6 has all of these."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
