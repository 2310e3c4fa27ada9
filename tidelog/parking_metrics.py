"""What is measured of parked keys. The names are the same in logs, metrics and documentation."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge

from tidelog.engine.retrying import Retried
from tidelog.postgres.parked_board import Parked

KEYS = Gauge("tidelog_projection_parked_keys", "Rows that wait behind an event.", ["projection"])
FOR_A_PERSON = Gauge(
    "tidelog_projection_parked_for_person",
    "Parked rows that are tried no more until a person has decided.",
    ["projection"],
)
WAITING = Gauge(
    "tidelog_projection_waiting_events",
    "Events that wait behind those that failed.",
    ["projection"],
)
OLDEST = Gauge(
    "tidelog_projection_parked_oldest_seconds",
    "How long the oldest parked row waits.",
    ["projection"],
)
ATTEMPTS = Gauge(
    "tidelog_projection_parked_attempts_max",
    "How often the event that was tried most was tried.",
    ["projection"],
)
DECISIONS = Counter(
    "tidelog_projection_decisions", "Decisions about parked events that were read.", ["projection"]
)
RETRIES = Counter(
    "tidelog_projection_retries", "Retries of parked rows.", ["projection", "outcome"]
)
RETRIED_EVENTS = Counter(
    "tidelog_projection_retried_events", "Events folded in by retries.", ["projection"]
)


class ParkingMetrics:
    """The measures of some projections in this process."""

    def __init__(self, projections: Iterable[str]) -> None:
        self._names = tuple(projections)
        self.tell([])

    def tell(self, summary: Iterable[Parked]) -> None:
        """How much is parked now."""
        found = {each.projection: each for each in summary}
        now = datetime.now(UTC)
        for name in self._names:
            each = found.get(name)
            KEYS.labels(name).set(each.keys if each else 0)
            FOR_A_PERSON.labels(name).set(each.for_a_person if each else 0)
            WAITING.labels(name).set(each.waiting if each else 0)
            ATTEMPTS.labels(name).set(each.attempts_max if each else 0)
            OLDEST.labels(name).set((now - each.oldest).total_seconds() if each else 0)

    def decided(self, projection: str) -> None:
        """A decision was read."""
        DECISIONS.labels(projection).inc()

    def retried(self, projection: str, retried: Retried) -> None:
        """A retry has ended."""
        RETRIES.labels(projection, retried.outcome.value).inc()
        RETRIED_EVENTS.labels(projection).inc(retried.folded)
