"""Events become work: the port of the read side, where a step adds rows of work and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
from prometheus_client import Counter

from tidelog.effects.definition import Effect, Reference
from tidelog.effects.work_tables import WorkStatements
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Applied, Overtaken, Step, TopicInfo, Written
from tidelog.engine.reading import Fact, Partition
from tidelog.message import Context
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.saga_store import SagaSource
from tidelog.postgres.tables import Generation

_PASSED_OVER = Counter(
    "tidelog_effect_passed_over_total", "Events that were too old to be acted upon.", ["effect"]
)


class WorkIntake:
    """Adds a row per event and effect, once, by the positions. One thread uses it.

    `name` is that under which its positions are kept. What was recorded longer ago than `age_max`
    is no work any more.
    """

    def __init__(
        self,
        name: str,
        effects: Sequence[Effect],
        references: Sequence[Reference],
        contexts: Sequence[Context],
        *,
        dsn: str,
        schema: str,
        age_max: timedelta | None = None,
    ) -> None:
        self.source = SagaSource(name=name, contexts=contexts)
        self._effects = effects
        self._references = references
        self._age_max = age_max
        self._statements = WorkStatements(schema)
        own = Generation(self.source.name, self.source.version, 1)
        self._base = GenerationStore(own, "", dsn=dsn, schema=schema)

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the tables and positions that are missing; check the topics' ids."""
        self._base.open(topics, self._statements.create, read_model=False)

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is taken in. TopicRecreated where the log is another one."""
        return self._base.progress()

    def apply(self, step: Step) -> Applied:
        """Advance and add the work in one transaction."""
        rows = self._rows(step.facts)
        kept = self._kept(step.facts)
        with self._base.errors() as connection, connection.transaction():
            advanced = self._base.advance(connection, step)
            overtaken = advanced is not None and advanced.rowcount != len(step.after)
            if overtaken:
                raise psycopg.Rollback
            for statement, added in (
                (self._statements.add, rows),
                (self._statements.keep, kept),
            ):
                if added:
                    connection.execute(statement, [list(each) for each in zip(*added, strict=True)])
            self._base.park_records(connection, step)
        return Overtaken() if overtaken else Written(len(rows), 0)

    def close(self) -> None:
        """Close the connection."""
        self._base.close()

    def _rows(self, facts: Sequence[Fact]) -> list[tuple[str, ...]]:
        return [
            _row(effect, fact)
            for fact in facts
            for effect in self._effects
            if type(fact.event) is effect.event and self._is_due(effect, fact)
        ]

    def _is_due(self, effect: Effect, fact: Fact) -> bool:
        """Whether the event is young enough to be acted upon; one that is not is counted."""
        if self._age_max is None or datetime.now(UTC) - fact.recorded_at <= self._age_max:
            return True
        _PASSED_OVER.labels(effect.name).inc()
        return False

    def _kept(self, facts: Sequence[Fact]) -> list[tuple[str, str, str]]:
        return [
            (reference.name, reference.key(fact.event), reference.value(fact.event))
            for fact in facts
            for reference in self._references
            if type(fact.event) is reference.event
        ]


def _row(effect: Effect, fact: Fact) -> tuple[str, ...]:
    metadata = fact.metadata
    return (
        f"{effect.name}:{metadata.message_id}",
        effect.name,
        metadata.subject,
        msgspec.json.encode(fact.event).decode(),
        metadata.message_id,
        metadata.correlation_id,
        metadata.traceparent,
    )
