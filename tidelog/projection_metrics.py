"""What a projector measures. The names are the same in logs, metrics and documentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import Counter, Gauge, Histogram

from tidelog.engine.folding import Partition
from tidelog.engine.projecting import Report
from tidelog.errors import TidelogError

EVENTS = Counter("tidelog_projection_events", "Events folded in.", ["projection"])
BATCHES = Histogram(
    "tidelog_projection_batch_events",
    "Events per transaction.",
    ["projection"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000),
)
SECONDS = Histogram(
    "tidelog_projection_batch_seconds",
    "From the records in hand to the commit.",
    ["projection"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
SEQUENCES = Gauge(
    "tidelog_projection_sequence",
    "The last event folded in.",
    ["projection", "context", "partition"],
)
LAG = Gauge(
    "tidelog_projection_lag_events",
    "Events in the log that are not folded in: exact, a difference of sequences.",
    ["projection", "context", "partition"],
)
ERRORS = Counter("tidelog_projection_errors", "Faults met.", ["projection", "kind"])
PARKED = Counter(
    "tidelog_projection_parked_records",
    "Records kept aside, forks among them.",
    ["projection", "context"],
)
STOPPED = Gauge(
    "tidelog_projection_stopped_partitions",
    "Partitions that wait for a person.",
    ["projection"],
)


class ProjectionMetrics:
    """The measures of one projection in this process."""

    def __init__(self, projection: str) -> None:
        self._name = projection
        STOPPED.labels(projection).set(0)

    def count(self, report: Report, seconds: float) -> None:
        """One batch."""
        EVENTS.labels(self._name).inc(report.events)
        if report.events:
            BATCHES.labels(self._name).observe(report.events / report.transactions)
            SECONDS.labels(self._name).observe(seconds)
        for parked in report.parked:
            PARKED.labels(self._name, parked.partition.context).inc()
        kinds = {
            "overtaken": int(report.overtaken),
            "log-hole": len(report.holes),
            "fold": len(report.failures),
        }
        for kind, times in kinds.items():
            if times:
                ERRORS.labels(self._name, kind).inc(times)

    def count_error(self, error: Exception) -> str:
        """A fault; the name of its kind."""
        kind = error.slug() if isinstance(error, TidelogError) else type(error).__name__
        ERRORS.labels(self._name, kind).inc()
        return kind

    def reached(self, sequences: Mapping[Partition, int], ended: Iterable[Partition]) -> None:
        """How far partitions are; those in `ended` are folded to the end of the log."""
        for at, sequence in sequences.items():
            SEQUENCES.labels(self._name, at.context, str(at.number)).set(sequence)
        for at in ended:
            LAG.labels(self._name, at.context, str(at.number)).set(0)

    def lags(self, reached: Mapping[Partition, int], ends: Mapping[Partition, int]) -> None:
        """How far the log goes on beyond what is folded in."""
        for at, sequence in reached.items():
            if at in ends:
                lag = max(ends[at] - sequence, 0)
                LAG.labels(self._name, at.context, str(at.number)).set(lag)

    def stopped(self, partitions: int) -> None:
        """How many partitions wait for a person."""
        STOPPED.labels(self._name).set(partitions)

    def released(self, partitions: Iterable[Partition]) -> None:
        """Partitions went to another process, which measures them from now on."""
        for at in partitions:
            for gauge in (SEQUENCES, LAG):
                gauge.remove(self._name, at.context, str(at.number))
