"""How many requests a caller may send: a bucket for each caller and route, filled all the time.

Each instance of the gateway counts for itself. What is counted is kept in one table with a bound;
who falls out of it because of others begins anew with a full bucket.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple

from tidelog.http.asgi import HeaderList

WINDOW_S: Final = 60
BUCKETS_MAX: Final = 100_000


class Standing(NamedTuple):
    """How a caller stands with one quota after a request."""

    name: str
    quota: int
    left: int
    full_in_s: int
    """In how many seconds all of the quota is there again."""

    wait_s: int
    """0 where the request may go on; else in how many seconds it may."""

    def headers(self) -> HeaderList:
        """RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers)."""
        name = self.name.encode("ascii")
        headers = [
            (b"ratelimit-policy", b'"%s";q=%d;w=%d' % (name, self.quota, WINDOW_S)),
            (b"ratelimit", b'"%s";r=%d;t=%d' % (name, self.left, self.full_in_s)),
        ]
        if self.wait_s:
            headers.append((b"retry-after", b"%d" % self.wait_s))
        return headers


class TooMany(Exception):
    """The caller has used up a quota."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.name)
        self.standing = standing


class Quotas:
    """Counts requests. A quota of 0 is none: everything may pass."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(
        self, name: str, quota: int, caller: str, route: str, cost: int = 1
    ) -> Standing | None:
        """Take `cost` requests from the bucket; TooMany where it does not hold them."""
        if quota == 0:
            return None
        now, key = self._now(), (caller, route)
        left, at = self._buckets.get(key, (float(quota), now))
        rate = quota / WINDOW_S
        left = min(left + (now - at) * rate, float(quota))
        # What costs more than a bucket holds passes where it is full: it is never shut out.
        enough = left >= min(cost, quota)
        if enough:
            left -= cost
        self._keep(key, (left, now))
        missing = 0 if enough else ceil((min(cost, quota) - left) / rate)
        standing = Standing(name, quota, max(int(left), 0), ceil((quota - left) / rate), missing)
        if not enough:
            raise TooMany(standing)
        return standing

    def _keep(self, key: tuple[str, str], bucket: tuple[float, float]) -> None:
        self._buckets[key] = bucket
        self._buckets.move_to_end(key)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
