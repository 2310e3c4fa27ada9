"""Metrics of a saga: how its instances begin and end, and what becomes of their steps.

Counted where an instance is written. A transaction that fails afterwards is done again and counted
again, so after a fault of the database these may count a little more than there was.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Histogram

from tidelog.engine.reacting import Instance
from tidelog.saga import ENDS

# From a process that answers at once to one that waits for a month of mail.
DURATIONS_S = (0.1, 0.5, 1, 5, 30, 60, 300, 1_800, 3_600, 86_400, 604_800, 2_592_000)

_INSTANCES = Counter(
    "tidelog_saga_instances_total",
    "What became of instances: started, completed, compensated, failed, stuck, parked.",
    ["saga", "became"],
)
_STEPS = Counter(
    "tidelog_saga_steps_total",
    "What became of steps: pending (asked for), done, failed (refused), skipped.",
    ["saga", "step", "became"],
)
_ATTEMPTS = Counter(
    "tidelog_saga_attempts_total",
    "Commands that were asked for, repetitions too.",
    ["saga", "step"],
)
_DURATION = Histogram(
    "tidelog_saga_duration_seconds",
    "From the beginning of an instance to its end.",
    ["saga", "end"],
    buckets=DURATIONS_S,
)


class SagaMetrics:
    """Counts for one saga. Any thread may use it."""

    def __init__(self, saga: str) -> None:
        self._saga = saga

    def changed(self, before: Instance[Any] | None, after: Instance[Any]) -> None:
        """An instance was written; None: it has just begun."""
        if before is None:
            self._became("started")
        if after.stuck and (before is None or not before.stuck):
            self._became("stuck")
        if after.phase in ENDS and (before is None or before.phase != after.phase):
            self._became(after.phase)
            lasted = ((after.ended_at or after.updated_at) - after.started_at).total_seconds()
            _DURATION.labels(self._saga, after.phase).observe(lasted)
        self._count_steps(before, after)

    def asked(self, step: str) -> None:
        """A command was put into the outbox, for the first time or again."""
        _ATTEMPTS.labels(self._saga, step).inc()

    def parked(self) -> None:
        """A reaction failed."""
        self._became("parked")

    def _count_steps(self, before: Instance[Any] | None, after: Instance[Any]) -> None:
        known = {} if before is None else {each.command_id: each for each in before.steps}
        for step in after.steps:
            was = known.get(step.command_id)
            if was is None or was.status != step.status:
                _STEPS.labels(self._saga, step.step, step.status).inc()

    def _became(self, what: str) -> None:
        _INSTANCES.labels(self._saga, what).inc()
