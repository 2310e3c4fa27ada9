"""What the HTTP edge counts, in plain integers, and how Prometheus reads them.

A request costs one bisection and three additions; labels are made when they are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROUTES_MAX: Final = 1_000
UNMATCHED: Final = "unmatched"

_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
)


class _RouteCounts:
    """What one method of one route template has answered."""

    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self.statuses: dict[int, int] = {}


class HttpMetrics(Collector):
    """Latency and statuses by route template, and the requests in flight."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._routes: dict[tuple[str, str], _RouteCounts] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        counts = self._routes.get((route, method))
        if counts is None:
            counts = self._add(route, method)
        counts.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        counts.seconds += seconds
        counts.statuses[status] = counts.statuses.get(status, 0) + 1

    def _add(self, route: str, method: str) -> _RouteCounts:
        known = method if method in _METHODS else "other"
        place = (route if len(self._routes) < ROUTES_MAX else UNMATCHED, known)
        return self._routes.setdefault(place, _RouteCounts())

    def collect(self) -> Iterator[Metric]:
        """The metrics as Prometheus reads them."""
        latency = HistogramMetricFamily(
            "tidelog_http_request_seconds",
            "Time from the request's headers to the end of its answer.",
            labels=("route", "method"),
        )
        requests = CounterMetricFamily(
            "tidelog_http_requests",
            "Answered requests by status.",
            labels=("route", "method", "status"),
        )
        for place, counts in self._routes.items():
            latency.add_metric(place, _cumulative(counts.buckets), counts.seconds)
            for status, count in counts.statuses.items():
                requests.add_metric((*place, str(status)), count)
        yield latency
        yield requests
        yield GaugeMetricFamily(
            "tidelog_http_requests_in_flight",
            "Requests that are being answered.",
            value=self.in_flight,
        )


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
    total = 0
    pairs: list[tuple[str, float]] = []
    for bound, count in zip(bounds, buckets, strict=True):
        total += count
        pairs.append((bound, total))
    return pairs
