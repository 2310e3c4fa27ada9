"""The instances of one saga, their positions and the outbox, in PostgreSQL, in one transaction.

The events of one instance come from several topics and to several processes at once. A step takes
the instances' rows in the order of their keys, so two steps never wait for one another in turn;
whoever comes second finds what the first one wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgspec
import psycopg
from psycopg import Connection

from tidelog.canonical import canonical_data
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Applied, Overtaken, Step, TopicInfo, Written
from tidelog.engine.reacting import Heard, Instance, Reactor, Request
from tidelog.engine.reading import Partition
from tidelog.engine.saga_batch import (
    ParkedSaga,
    SagaChanges,
    SagaRow,
    heard_by_key,
    react_all,
)
from tidelog.message import Context, Event
from tidelog.parking import PAUSES_S
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.saga_statements import SagaStatements
from tidelog.postgres.saga_tables import BUCKETS
from tidelog.postgres.tables import Generation
from tidelog.saga_metrics import SagaMetrics

OUTBOX_CHANNEL = "tidelog_outbox"
ERROR_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, kw_only=True)
class SagaSource:
    """What a feed needs to know of a saga: under which name its positions are kept."""

    name: str
    contexts: Sequence[Context]
    version: int = 1


class SagaStore:
    """The port of the read side for a saga: a step reacts where a projection folds.

    One thread uses it.
    """

    def __init__(self, reactor: Reactor, *, dsn: str, schema: str) -> None:
        saga = reactor.saga
        self.saga = saga
        self._reactor = reactor
        self.source = SagaSource(name=f"saga:{saga.name}", contexts=saga.contexts)
        own = Generation(self.source.name, self.source.version, 1)
        self._base = GenerationStore(own, "", dsn=dsn, schema=schema)
        self.rows = SagaRows(reactor, schema)

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the tables and positions that are missing; check the topics' ids."""
        self._base.open(topics, self.rows.statements.create, read_model=False)

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is heard. TopicRecreated where the log is another one."""
        return self._base.progress()

    def apply(self, step: Step) -> Applied:
        """Advance, react and write in one transaction."""
        with self._base.errors() as connection, connection.pipeline(), connection.transaction():
            applied = self._apply(connection, step)
            if not isinstance(applied, Written):
                raise psycopg.Rollback
        return applied

    def close(self) -> None:
        """Close the connection."""
        self._base.close()

    def _apply(self, connection: Connection[Any], step: Step) -> Applied:
        events = heard_by_key(self._reactor, step.facts)
        keys = sorted(events)
        # The end of the inner block waits: the rows are locked before they are looked at.
        with connection.pipeline():
            advanced = self._base.advance(connection, step)
            loading = self.rows.lock(connection, keys)
        if advanced is not None and advanced.rowcount != len(step.after):
            return Overtaken()
        changes = react_all(self._reactor, events, loading.rows())
        self.rows.write(connection, changes)
        self._base.park_records(connection, step)
        return Written(len(changes.instances), 0)


class Loading:
    """Rows that are locked and on their way from PostgreSQL."""

    def __init__(
        self, rows: SagaRows, found: psycopg.Cursor[Any] | None, held: psycopg.Cursor[Any] | None
    ) -> None:
        self._rows = rows
        self._found = found
        self._held = held

    def rows(self) -> dict[str, SagaRow]:
        """The rows, by key."""
        waiting: dict[str, list[Heard]] = {}
        for key, *record in self._held or ():
            waiting.setdefault(key, []).append(self._rows.heard(record))
        return {
            key: SagaRow(
                None if document is None else self._rows.instance(document),
                parked,
                tuple(waiting.get(key, ())),
            )
            for key, document, parked in self._found or ()
        }


class SagaRows:
    """Reads and writes the rows of one saga's instances in transactions of the caller."""

    def __init__(self, reactor: Reactor, schema: str) -> None:
        saga = reactor.saga
        self.name = saga.name
        self.schema = schema
        self.statements = SagaStatements(schema)
        self._events: dict[str, type[Event]] = {kind.__name__: kind for kind in saga.event_types}
        state: Any = type(saga.initial)
        self._decoder = msgspec.json.Decoder(Instance[state])
        self._metrics = SagaMetrics(saga.name)
        # What was read in this transaction: the metrics tell what is different.
        self._read: dict[str, Instance[Any]] = {}

    def lock(self, connection: Connection[Any], keys: Sequence[str]) -> Loading:
        """Lock the rows of these keys, which are sorted, made where they are missing."""
        self.forget()
        if not keys:
            return Loading(self, None, None)
        values = (self.name, list(keys))
        connection.execute(self.statements.make, values)
        found = connection.execute(self.statements.lock, values)
        return Loading(self, found, connection.execute(self.statements.held, values))

    def forget(self) -> None:
        """A transaction begins: nothing is read yet."""
        self._read.clear()

    def write(self, connection: Connection[Any], changes: SagaChanges) -> None:
        """Write what a batch changed."""
        statements = self.statements
        if changes.instances:
            connection.execute(statements.save, self._columns(changes.instances))
        if changes.released:
            connection.execute(statements.release, (self.name, changes.released))
        if changes.held:
            connection.execute(statements.hold, self._held_columns(changes.held))
        for parked in changes.parked:
            connection.execute(statements.park, self._parked(parked))
        if changes.requests:
            self._request(connection, changes.requests)
        self._count(changes)

    def _count(self, changes: SagaChanges) -> None:
        for key, instance in changes.instances.items():
            self._metrics.changed(self._read.get(key), instance)
            self._read[key] = instance
        for _, request in changes.requests:
            self._metrics.asked(request.step)
        for _ in changes.parked:
            self._metrics.parked()

    def instance(self, document: Any) -> Instance[Any]:
        """The instance in its stored form."""
        found = self._decoder.decode(document)
        self._read[found.key] = found
        return found

    def heard(self, record: Sequence[Any]) -> Heard:
        """A held event."""
        event_type, data, *metadata = record
        event = msgspec.json.decode(data, type=self._events[event_type])
        return Heard(event, *metadata)

    # --- columns ----------------------------------------------------------------------------

    def _columns(self, instances: Mapping[str, Instance[Any]]) -> tuple[Any, ...]:
        rows = list(instances.values())
        return (
            self.name,
            [row.key for row in rows],
            [row.phase for row in rows],
            [row.stuck for row in rows],
            [row.next_due for row in rows],
            [row.correlation_id for row in rows],
            [row.started_at for row in rows],
            [row.updated_at for row in rows],
            [row.ended_at for row in rows],
            [msgspec.json.encode(row).decode() for row in rows],
        )

    def _held_columns(self, held: Sequence[tuple[str, Heard]]) -> tuple[Any, ...]:
        return (
            self.name,
            [key for key, _ in held],
            [type(heard.event).__name__ for _, heard in held],
            [msgspec.json.encode(heard.event).decode() for _, heard in held],
            [heard.message_id for _, heard in held],
            [heard.causation_id for _, heard in held],
            [heard.correlation_id for _, heard in held],
            [heard.traceparent for _, heard in held],
            [heard.position for _, heard in held],
            [heard.at for _, heard in held],
        )

    def _parked(self, parked: ParkedSaga) -> tuple[Any, ...]:
        return (
            self.name,
            parked.key,
            parked.heard.position,
            type(parked.heard.event).__name__,
            type(parked.error).__name__,
            str(parked.error).replace("\0", "")[:ERROR_CHARACTERS_MAX],
            list(PAUSES_S),
            list(PAUSES_S),
        )

    def _request(
        self, connection: Connection[Any], requests: Sequence[tuple[str, Request]]
    ) -> None:
        """Put commands into the outbox, and remember whose they are."""
        asked = [request for _, request in requests]
        connection.execute(
            self.statements.request,
            (
                [bucket_of(request.context, request.subject) for request in asked],
                [request.context for request in asked],
                [request.subject for request in asked],
                [request.command_id for request in asked],
                [type(request.command).__name__ for request in asked],
                [canonical_data(request.command).decode() for request in asked],
                [request.causation_id for request in asked],
                [request.correlation_id for request in asked],
                [request.traceparent for request in asked],
            ),
        )
        connection.execute(
            self.statements.own,
            (
                self.name,
                [request.command_id for request in asked],
                [key for key, _ in requests],
            ),
        )
        connection.execute("SELECT pg_notify(%s, %s)", (OUTBOX_CHANNEL, self.schema))


def bucket_of(context: str, subject: str) -> int:
    """The part of the outbox that holds the commands to this aggregate."""
    return crc32(f"{context}/{subject}".encode()) % BUCKETS
