"""Metrics of the command side. Gauges are read when scraped and cost nothing in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from tidelog.kafka.command_host import CommandHost
    from tidelog.kafka.command_inbox import CommandInbox
    from tidelog.kafka.owner import PartitionOwner

PARTITION = ["context", "partition"]


class _Figure(NamedTuple):
    """A figure of an owned partition; one that only grows is a counter."""

    name: str
    help: str
    value: Callable[[PartitionOwner, CommandInbox | None], float]
    grows: bool = False


FIGURES = (
    _Figure("tidelog_partition_serving", "1 while it serves.", lambda o, _: o.writer.serving),
    _Figure(
        "tidelog_partition_broken",
        "1 if a hole or a fork stopped it.",
        lambda o, _: o.writer.broken is not None,
    ),
    _Figure("tidelog_commands_queued", "Not decided yet.", lambda o, _: o.writer.queued),
    _Figure(
        "tidelog_commands_unfinished",
        "Commands of the topic without a durable outcome.",
        lambda _, inbox: inbox.unfinished if inbox else 0,
    ),
    _Figure(
        "tidelog_partition_sequence",
        "The last committed sequence.",
        lambda o, _: o.writer.state.anchor.sequence,
    ),
    _Figure("tidelog_commits", "Transactions committed.", lambda o, _: o.commits, True),
    _Figure("tidelog_takeovers", "Takeovers completed.", lambda o, _: o.takeovers, True),
    _Figure("tidelog_writer_failures", "Uncertain outcomes.", lambda o, _: o.failures, True),
    _Figure(
        "tidelog_foreign_records",
        "Records in the log that are not ours.",
        lambda o, _: o.writer.replay.foreign_records,
        True,
    ),
    _Figure(
        "tidelog_checkpoints_distrusted",
        "Checkpoints that the log did not agree with.",
        lambda o, _: o.writer.replay.distrusted_checkpoints,
        True,
    ),
    _Figure(
        "tidelog_checkpoint_failures",
        "Checkpoints that could not be saved.",
        lambda o, _: o.checkpoint_failures,
        True,
    ),
)


class CommandHostCollector(Collector):
    """What the owned partitions look like now."""

    def __init__(self, host: CommandHost) -> None:
        self._host = host

    def collect(self) -> Iterable[Metric]:
        """One family per figure, one sample per owned partition."""
        owners = list(self._host.owners.items())
        for figure in FIGURES:
            kind = CounterMetricFamily if figure.grows else GaugeMetricFamily
            family = kind(figure.name, figure.help, labels=PARTITION)
            for (context, partition), owner in owners:
                inbox = self._host.inboxes.get((context, partition))
                value = float(figure.value(owner, inbox))
                family.add_metric([context, str(partition)], value)
            yield family
        lease = GaugeMetricFamily("tidelog_lease_holds", "1 while the group has confirmed us.")
        lease.add_metric([], float(self._host.lease_holds()))
        yield lease
