"""Projectors over a real log and a real database, for the tests of the read side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg

from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, read_log
from tests.read_side import COUNTERS, Added, Cleared, Counter
from tidelog import Projection
from tidelog.codec import Codec
from tidelog.definitions import AnyProjection
from tidelog.engine.folding import Folder, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Partition
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.projector import Projectors
from tidelog.registry import MemoryRegistry
from tidelog.settings import Settings

FAILING = -1


def evolve(row: Counter | None, event: Added | Cleared) -> Counter | None:
    if isinstance(event, Cleared):
        return None
    if event.by == FAILING:
        raise ValueError("a bug")
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


counter = Projection(
    name="counter",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve,
)


@dataclass
class World:
    """A log, a database, and the projectors over them."""

    kafka: str
    namespace: str
    database: Database
    codec: Codec
    log: LogWriter
    instances: Iterator[int] = field(default_factory=count)

    def projectors(self, *projections: AnyProjection) -> Projectors:
        """Not yet running."""
        settings = Settings(
            kafka_bootstrap_servers=self.kafka,
            topic_prefix=self.namespace,
            postgres_dsn=self.database.dsn,
            postgres_schema=self.database.schema,
            instance=str(next(self.instances)),
            session_timeout_ms=6_000,
            projection_batch_events_max=500,
            projection_queue_events_max=1_000,
        )
        return Projectors(
            projections or (counter,), settings, codec=self.codec, prepare=lambda: None
        )

    def store(self, projection: Projection[Any, Any] = counter) -> PostgresProjectionStore:
        return PostgresProjectionStore(
            projection, dsn=self.database.dsn, schema=self.database.schema
        )

    @contextmanager
    def running(self, *projections: AnyProjection) -> Iterator[Projectors]:
        """Projectors at work in their threads."""
        projectors = self.projectors(*projections)
        thread = threading.Thread(target=projectors.run)
        thread.start()
        try:
            yield projectors
        finally:
            projectors.stop()
            thread.join(20)
            assert not thread.is_alive(), "projectors stop within their bounds"

    def rows(self) -> dict[str, StoredRow]:
        """What the table holds."""
        store = self.store()
        try:
            return store.rows()
        finally:
            store.close()

    def folded(self) -> tuple[dict[str, StoredRow], dict[int, int]]:
        """The pure fold of the whole log, and the last sequence of each partition."""
        reader, folder = EventReader([COUNTERS], self.codec), Folder(counter)
        rows: dict[str, StoredRow] = {}
        sequences: dict[int, int] = {}
        log = read_log(self.kafka, self.log.topic, self.log.partitions)
        for number, records in enumerate(log):
            at = Partition("counters", number)
            reading = reader.read({at: records}, {at: Progress()})
            touches, failure = folder.touches(reading.facts)
            assert failure is None
            rows |= folder.fold(touches, {}).upserts
            if reading.progress:
                sequences[number] = reading.progress[at].sequence
        return rows, sequences

    def query(self, statement: str) -> list[Any]:
        """What SQL finds in the test's schema (as `{s}`)."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            return connection.execute(statement.format(s=self.database.schema).encode()).fetchall()


def new_world(kafka: str, namespace: str, database: Database) -> World:
    """A new log, an empty database."""
    codec = Codec([COUNTERS], MemoryRegistry(), namespace)
    codec.prepare()
    log = LogWriter(kafka, COUNTERS, codec, topic_prefix=namespace)
    return World(kafka, namespace, database, codec, log)


def reached(world: World, *several: Projectors) -> Callable[[], bool]:
    """Whether the feeders of each read model are, together, at the end of the log."""

    def look() -> bool:
        positions: dict[str, dict[int, int]] = {}
        for feeder in [feeder for each in several for feeder in each.feeders]:
            own = positions.setdefault(feeder.name, {})
            own |= {at.number: n for at, n in feeder.positions().items() if n}
        ends = world.log.positions()
        return bool(positions) and all(own == ends for own in positions.values())

    return look


def owned(projectors: Projectors) -> set[Partition]:
    """The partitions that the group has given to these."""
    return {at for each in projectors.feeders for at in each.positions()}


def problems(projectors: Projectors) -> list[str]:
    """All that is not well."""
    own = [found for name in projectors.names for found in projectors.problems(name)]
    return own + projectors.log_problems()
