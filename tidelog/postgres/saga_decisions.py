"""What people decided about instances of sagas, and about the work of effects, carried out once.

The decision is an event of `operations`; how far those are carried out is a position like that of
any reader, written in the transaction that carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import psycopg
from prometheus_client import Counter
from psycopg import Connection, sql

from tidelog.effects.work_tables import DecidedWorkStatements
from tidelog.engine.deciding import DECISIONS, decide
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Applied, Overtaken, Step, TopicInfo, Written
from tidelog.engine.reacting import DecisionRecord, Instance, Reactor
from tidelog.engine.reading import Fact, Partition
from tidelog.engine.saga_batch import SagaChanges
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.saga_desk import retry_parked_key
from tidelog.postgres.saga_store import SagaRows, SagaSource
from tidelog.postgres.tables import Generation

NAME = "sagas:decisions"

PARKED = "a reaction of it fails, so it hears of nothing: mend that, then retry"
FAILS_AGAIN = "its reaction failed again"

log = get_logger(__name__)

_DECISIONS = Counter(
    "tidelog_saga_decisions_total",
    "What people decided about instances and effects: done, refused, or about what is not there.",
    ["saga", "decision", "outcome"],
)


class SagaDecisionStore:
    """The port of the read side for decisions about sagas. One thread uses it."""

    def __init__(
        self,
        reactors: Mapping[str, Reactor],
        operations: Context,
        *,
        dsn: str,
        schema: str,
    ) -> None:
        self.source = SagaSource(name=NAME, contexts=[operations])
        self._reactors = reactors
        self._rows = {name: SagaRows(reactor, schema) for name, reactor in reactors.items()}
        self._work = DecidedWorkStatements(schema)
        # The process of the effects makes it, and may not have run yet.
        self._work_is_there = sql.SQL("SELECT to_regclass({}) IS NOT NULL").format(
            sql.Literal(f'"{schema}".effect_work')
        )
        own = Generation(NAME, self.source.version, 1)
        self._base = GenerationStore(own, "", dsn=dsn, schema=schema)

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the tables and positions that are missing; check the topics' ids."""
        create = [each for rows in self._rows.values() for each in rows.statements.create]
        self._base.open(topics, create, read_model=False)

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is carried out. TopicRecreated where the log is another one."""
        return self._base.progress()

    def apply(self, step: Step) -> Applied:
        """Advance, and carry out what was decided, in one transaction."""
        with self._base.errors() as connection, connection.transaction():
            applied = self._apply(connection, step)
            if not isinstance(applied, Written):
                raise psycopg.Rollback
        return applied

    def close(self) -> None:
        """Close the connection."""
        self._base.close()

    def _apply(self, connection: Connection[Any], step: Step) -> Applied:
        advanced = self._base.advance(connection, step)
        if advanced is not None and advanced.rowcount != len(step.after):
            return Overtaken()
        # In the order of the keys, as whoever locks several instances takes them; of one key in the
        # order of the log.
        found = [each for fact in step.facts if (each := _decided_in(fact)) is not None]
        for each in sorted(found, key=lambda each: (each.saga, each.key)):
            self._carry_out(connection, each)
        for fact in step.facts:
            self._retry_work(connection, fact.event)
        self._base.park_records(connection, step)
        return Written(0, 0)

    def _carry_out(self, connection: Connection[Any], decided: Decided) -> None:
        reactor = self._reactors.get(decided.saga)
        outcome = "unknown"
        if reactor is not None:
            rows = self._rows[decided.saga]
            outcome = decide_instance(
                connection, reactor, rows, decided.key, decided.record, self._open_work
            )
        _DECISIONS.labels(decided.saga, decided.record.decision, outcome).inc()
        log.info(
            "saga.decided",
            saga=decided.saga,
            key=decided.key,
            decision=decided.record.decision,
            step=decided.record.step,
            operator=decided.record.operator,
            outcome=outcome,
        )

    def _open_work(
        self, connection: Connection[Any], reactor: Reactor, instance: Instance[Any], step: str
    ) -> OpenWork:
        """The work outside that a skip of the step stops, locked so that nobody takes it."""
        effects = list(reactor.outside(step))
        if not effects or connection.execute(self._work_is_there).fetchone() != (True,):
            return OpenWork("", self._work.drop, [])
        values = (effects, instance.correlation_id, reactor.saga.key, instance.key)
        found = connection.execute(self._work.open_of, values).fetchall()
        busy = [effect for _, effect, taken in found if taken]
        refusal = f"{busy[0]} is being tried at this moment: decide again" if busy else ""
        return OpenWork(refusal, self._work.drop, [identity for identity, *_ in found])

    def _retry_work(self, connection: Connection[Any], event: Any) -> None:
        """Work of an effect that is parked may be taken again, with all its tries before it."""
        if event.kind != "effect" or event.decision != "retry":
            return
        retried = 0
        if connection.execute(self._work_is_there).fetchone() == (True,):
            values = (event.projection, event.key)
            retried = connection.execute(self._work.retry_of, values).rowcount
        outcome = "done" if retried else "unknown"
        _DECISIONS.labels(event.projection, event.decision, outcome).inc()
        log.info("effect.retried", effect=event.projection, key=event.key, rows=retried)


class OpenWork(NamedTuple):
    """Work outside that is to be stopped, or why it cannot be."""

    refusal: str
    drop: bytes
    ids: list[str]


class Decided(NamedTuple):
    """A decision about one instance of a saga."""

    saga: str
    key: str
    record: DecisionRecord


FindWork = Callable[[Connection[Any], Reactor, Instance[Any], str], OpenWork]


def _decided_in(fact: Fact) -> Decided | None:
    """What the event decides about an instance of a saga; None where it decides about none."""
    event: Any = fact.event
    if event.kind != "saga" or event.decision not in DECISIONS or event.key is None:
        return None
    record = DecisionRecord(
        target=event.target,
        decision=event.decision,
        step=event.step or "",
        operator=event.operator,
        reason=event.reason,
        position=fact.position,
        at=fact.recorded_at,
    )
    return Decided(event.projection, event.key, record)


def decide_instance(
    connection: Connection[Any],
    reactor: Reactor,
    rows: SagaRows,
    key: str,
    decided: DecisionRecord,
    open_work: FindWork,
) -> str:
    """Carry a decision out under the lock of the instance's row, in the caller's transaction.

    What came of it: done, refused, or unknown where there is no such instance.
    """
    row = rows.lock(connection, [key]).rows()[key]
    parked = PARKED if row.parked else ""
    if row.parked and decided.decision == "retry":
        parked = "" if retry_parked_key(connection, reactor, rows, key) else FAILS_AGAIN
        row = rows.lock(connection, [key]).rows()[key]
        if row.instance is None:
            return "refused" if parked else "done"
    if row.instance is None:
        return "unknown"
    work = None
    if decided.decision == "skip":
        work = open_work(connection, reactor, row.instance, decided.step)
    reacted = decide(reactor, row.instance, decided, parked or (work.refusal if work else ""))
    assert reacted.instance is not None, "an instance that has begun stays"
    requests = [(key, request) for request in reacted.requests]
    rows.write(connection, SagaChanges({key: reacted.instance}, requests, [], [], []))
    if reacted.instance.decisions[-1].refused:
        return "refused"
    if work is not None and work.ids:
        connection.execute(work.drop, (work.ids,))
    return "done"
