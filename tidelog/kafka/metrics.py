"""Metrics of the command side. Gauges are read when scraped and cost nothing in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from tidelog.kafka.command_host import CommandHost

COMMIT_SECONDS = Histogram(
    "tidelog_commit_seconds",
    "From handing a transaction to Kafka until its commit is known.",
    ["context"],
    buckets=(
        0.001,
        0.002,
        0.003,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
    ),
)
COMMIT_EVENTS = Histogram(
    "tidelog_commit_events",
    "Events per transaction.",
    ["context"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)

PARTITION = ["context", "partition"]


class CommandHostCollector(Collector):
    """What the owned partitions look like now."""

    def __init__(self, host: CommandHost) -> None:
        self._host = host

    def collect(self) -> Iterable[Metric]:
        """One family per figure, one sample per owned partition."""
        families = _families()
        for (context, partition), owner in list(self._host.owners.items()):
            writer = owner.writer
            inbox = self._host.inboxes.get((context, partition))
            values: list[float] = [
                writer.serving,
                writer.broken is not None,
                writer.queued,
                inbox.unfinished if inbox else 0,
                writer.state.anchor.sequence,
                owner.commits,
                owner.takeovers,
                owner.failures,
                writer.foreign_records,
                writer.distrusted_checkpoints,
                owner.checkpoint_failures,
            ]
            for family, value in zip(families, values, strict=True):
                family.add_metric([context, str(partition)], float(value))
        lease = GaugeMetricFamily(
            "tidelog_lease_holds", "1 while the group has confirmed us lately."
        )
        lease.add_metric([], float(self._host.lease_holds()))
        return [*families, lease]


def _families() -> list[GaugeMetricFamily | CounterMetricFamily]:
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    return [
        gauge(
            "tidelog_partition_serving",
            "1 while commands are accepted.",
            labels=PARTITION,
        ),
        gauge(
            "tidelog_partition_broken",
            "1 if a hole or a fork stopped it.",
            labels=PARTITION,
        ),
        gauge(
            "tidelog_commands_queued",
            "Commands that wait to be decided.",
            labels=PARTITION,
        ),
        gauge(
            "tidelog_commands_unfinished",
            "Commands of the topic without an outcome.",
            labels=PARTITION,
        ),
        gauge(
            "tidelog_partition_sequence",
            "The last committed sequence.",
            labels=PARTITION,
        ),
        counter("tidelog_commits", "Transactions committed.", labels=PARTITION),
        counter("tidelog_takeovers", "Takeovers completed.", labels=PARTITION),
        counter(
            "tidelog_writer_failures",
            "Uncertain outcomes and failed steps.",
            labels=PARTITION,
        ),
        counter(
            "tidelog_foreign_records",
            "Records in the log that are not ours.",
            labels=PARTITION,
        ),
        counter(
            "tidelog_checkpoints_distrusted",
            "Checkpoints thrown away.",
            labels=PARTITION,
        ),
    ]
