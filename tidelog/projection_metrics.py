"""What a projector measures. The names are the same in logs, metrics and documentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from tidelog.engine.projecting import Report
from tidelog.engine.reading import Partition
from tidelog.errors import TidelogError
from tidelog.lag import GenerationLag

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
    ["projection", "version", "generation", "context", "partition"],
)
LAG_SECONDS = Gauge(
    "tidelog_projection_lag_seconds",
    "Age of the oldest event that is not folded in, by log time; 0 where nothing is missing.",
    ["projection", "version", "generation", "context", "partition"],
)
LAG_TREND = Gauge(
    "tidelog_projection_lag_trend",
    "How the lag has changed over 30 seconds: 1 growing, 0 steady, -1 shrinking.",
    ["projection", "version", "generation", "context", "partition"],
)
STALLED = Gauge(
    "tidelog_projection_stalled_partitions",
    "Partitions whose events wait for long while nothing is folded.",
    ["projection", "version", "generation"],
)
ERRORS = Counter("tidelog_projection_errors", "Faults met.", ["projection", "kind"])
LANE_ERRORS = Counter("tidelog_lane_errors", "Faults met by those who read the log.", ["kind"])
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

Labels = tuple[str, ...]
TRENDS = {"growing": 1, "steady": 0, "shrinking": -1}


def count_lane_error(error: Exception) -> None:
    """A fault met while reading the log, for all who read it."""
    LANE_ERRORS.labels(_kind(error)).inc()


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
            "fold": len(report.failures),
        }
        for kind, times in kinds.items():
            if times:
                ERRORS.labels(self._name, kind).inc(times)

    def count_error(self, error: Exception) -> str:
        """A fault; the name of its kind."""
        kind = _kind(error)
        ERRORS.labels(self._name, kind).inc()
        return kind

    def reached(self, sequences: Mapping[Partition, int]) -> None:
        """How far partitions are."""
        for at, sequence in sequences.items():
            SEQUENCES.labels(self._name, at.context, str(at.number)).set(sequence)

    def stopped(self, partitions: int) -> None:
        """How many partitions wait for a person."""
        STOPPED.labels(self._name).set(partitions)

    def released(self, partitions: Iterable[Partition]) -> None:
        """Partitions went to another process, which measures them from now on."""
        for at in partitions:
            SEQUENCES.remove(self._name, at.context, str(at.number))


class LagMetrics:
    """The lag of every read model, as the last look saw it."""

    def __init__(self) -> None:
        self._told: dict[Gauge, set[Labels]] = {}

    def tell(self, lags: Sequence[GenerationLag]) -> None:
        """Show these lags, and no others: a generation that was dropped has none."""
        stalled: dict[Labels, float] = {}
        records, seconds, trends = dict(stalled), dict(stalled), dict(stalled)
        for each in lags:
            stored = each.stored
            generation = (stored.projection, str(stored.version), str(stored.number))
            stalled[generation] = len(each.stalled)
            for lag in each.partitions:
                place = (*generation, lag.partition.context, str(lag.partition.number))
                records[place], seconds[place] = lag.records, lag.seconds
                if lag.trend is not None:
                    trends[place] = TRENDS[lag.trend]
        self._set(STALLED, stalled)
        self._set(LAG, records)
        self._set(LAG_SECONDS, seconds)
        self._set(LAG_TREND, trends)

    def _set(self, gauge: Gauge, values: Mapping[Labels, float]) -> None:
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        for labels in self._told.get(gauge, set()) - values.keys():
            gauge.remove(*labels)
        self._told[gauge] = set(values)


def _kind(error: Exception) -> str:
    return error.slug() if isinstance(error, TidelogError) else type(error).__name__
