"""What the live windows measure of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from projectors.live.app import LiveApp
from projectors.live.follower import Follower

KINDS = (
    "taken",
    "redelivered",
    "foreign",
    "unreadable",
    "forks",
    "holes",
    "rereads",
    "out_of_turn",
    "out_of_time",
)


class LiveMetricsCollector(Collector):
    """Reads the counts when they are asked for."""

    def __init__(self, follower: Follower, app: LiveApp) -> None:
        self._follower = follower
        self._app = app

    def collect(self) -> Iterator[Metric]:
        """Every measure."""
        records = CounterMetricFamily(
            "tidelog_live_records", "What became of the records that Faust gave.", labels=["kind"]
        )
        for kind in KINDS:
            records.add_metric([kind], self._follower.counts[kind])
        yield records
        yield GaugeMetricFamily(
            "tidelog_live_open_orders",
            "Orders that are neither confirmed nor cancelled and may be soon.",
            value=self._app.open_orders,
        )
        sequences = GaugeMetricFamily(
            "tidelog_live_sequence", "The last event taken in.", labels=["context", "partition"]
        )
        for at, progress in self._follower.progress().items():
            sequences.add_metric([at.context, str(at.number)], progress.sequence)
        yield sequences

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Be asked, for a while."""
        REGISTRY.register(self)
        try:
            yield
        finally:
            REGISTRY.unregister(self)
