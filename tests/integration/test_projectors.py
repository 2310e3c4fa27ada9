"""Given a log on a real broker, when projectors fold it into PostgreSQL, then it is its fold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, read_log, until
from tests.read_side import COUNTERS, Added, Cleared, Counter
from tidelog import Projection
from tidelog.codec import Codec
from tidelog.engine.folding import EventReader, Folder, Partition, StoredRow
from tidelog.engine.judge import Progress
from tidelog.kafka.ends import LogEnds
from tidelog.kafka.reader import read_topics
from tidelog.kafka.topics import admin_client
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.projector import Projector, ProjectorOptions
from tidelog.registry import MemoryRegistry

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

    def projector(self, projection: Projection[Any, Any] = counter) -> Projector:
        admin = admin_client(self.kafka)
        return Projector(
            projection,
            codec=self.codec,
            store=self.store(projection),
            prepare=lambda: None,
            topics=lambda: read_topics(admin, projection.contexts, self.namespace),
            options=ProjectorOptions(
                bootstrap_servers=self.kafka,
                topic_prefix=self.namespace,
                instance=str(next(self.instances)),
                session_timeout_ms=6_000,
                batch_events_max=500,
            ),
        )

    def store(self, projection: Projection[Any, Any] = counter) -> PostgresProjectionStore:
        return PostgresProjectionStore(
            projection, dsn=self.database.dsn, schema=self.database.schema
        )

    @contextmanager
    def running(self) -> Iterator[Projector]:
        """A projector at work in a thread."""
        projector = self.projector()
        thread = threading.Thread(target=projector.run)
        thread.start()
        try:
            yield projector
        finally:
            projector.stop()
            thread.join(20)
            assert not thread.is_alive(), "a projector stops within its bounds"

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
            touches, failures = folder.touches(reading.facts)
            assert not failures
            rows |= folder.fold(touches, {}).upserts
            if reading.progress:
                sequences[number] = reading.progress[at].sequence
        return rows, sequences

    def query(self, statement: str) -> list[Any]:
        """What SQL finds in the test's schema (as `{s}`)."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            return connection.execute(statement.format(s=self.database.schema).encode()).fetchall()


@pytest.fixture
def world(kafka: str, namespace: str, database: Database) -> World:
    codec = Codec([COUNTERS], MemoryRegistry(), namespace)
    codec.prepare()
    log = LogWriter(kafka, COUNTERS, codec, topic_prefix=namespace)
    return World(kafka, namespace, database, codec, log)


def reached(world: World, *projectors: Projector) -> Callable[[], bool]:
    """Whether the projectors together are at the end of the log."""

    def look() -> bool:
        positions = {
            at.number: sequence
            for each in projectors
            for at, sequence in each.positions().items()
            if sequence
        }
        return positions == world.log.positions()

    return look


def some_events(start: int, keys: int, events: int) -> Sequence[Added]:
    return [Added(counter_id=f"c-{n % keys}", by=n) for n in range(start, start + events)]


def key_in(world: World, partition: int) -> str:
    """A key of this partition."""
    return next(key for n in count() if world.log.partition(key := f"k-{n}") == partition)


def test_rows_and_positions_are_the_fold_of_the_log(world: World) -> None:
    with world.running() as projector:
        for start in range(0, 3_000, 300):
            world.log.append(*some_events(start, keys=40, events=300))
            world.log.abort(Added(counter_id="c-1", by=1_000_000))
        world.log.append(Cleared(counter_id="c-7"))
        until(reached(world, projector), "the projector reaches the end")

    rows, _ = world.folded()
    assert world.rows() == rows
    assert "c-7" not in rows
    assert len(rows) == 39


def test_an_event_is_visible_soon_after_its_commit(world: World) -> None:
    with world.running() as projector:
        world.log.append(Added(counter_id="warm", by=1))
        until(reached(world, projector), "the projector runs")

        (position,) = world.log.append(Added(counter_id="a", by=1))

        row = until(lambda: world.rows().get("a"), "the row is visible", timeout_s=2)
        assert row.position == str(position)


def test_a_restarted_projector_goes_on_from_the_stored_positions(world: World) -> None:
    world.log.append(*some_events(0, keys=10, events=500))
    with world.running() as projector:
        until(reached(world, projector), "the first reaches the end")
    world.log.append(*some_events(500, keys=10, events=500))

    with world.running() as projector:
        until(reached(world, projector), "the second reaches the end")

    assert world.rows() == world.folded()[0]


def test_two_members_share_the_partitions_and_one_takes_over_what_the_other_leaves(
    world: World,
) -> None:
    with world.running() as first:
        with world.running() as second:
            until(second.positions, "the second gets partitions")
            world.log.append(*some_events(0, keys=40, events=1_000))
            until(reached(world, first, second), "together they reach the end")
            assert len(first.positions()) + len(second.positions()) == 4
        world.log.append(*some_events(1_000, keys=40, events=1_000))
        until(reached(world, first), "the first has all partitions")

    assert world.rows() == world.folded()[0]


def test_bytes_that_do_not_decode_are_parked_and_the_partition_goes_on(world: World) -> None:
    key = key_in(world, 2)
    world.log.append(Added(counter_id=key, by=1))
    world.log.append_raw(2, b"not ours", key=b"\xff", headers=[("odd", b"\x00\xff")])
    world.log.append_raw(2, None)
    world.log.append_raw(2, b"\x00\x00\x00\x00\x63rest", key=key.encode())
    world.log.append(Added(counter_id=key, by=2))

    with world.running() as projector:
        until(reached(world, projector), "the projector passes the poison")
        until(lambda: not projector.problems(), "parked records leave the projector well")

    assert world.rows()[key].row.total == 3
    parked = world.query(
        "SELECT context, partition, sequence, fork, key, value, headers::text "
        'FROM {s}.parked_records ORDER BY "offset"'
    )
    assert parked[0] == (
        "counters",
        2,
        1,
        False,
        b"\xff",
        b"not ours",
        '[["odd", "AP8="]]',
    )
    assert [row[5] for row in parked[1:]] == [None, b"\x00\x00\x00\x00\x63rest"]


def test_missing_events_stop_their_partition_loudly_and_no_other(world: World) -> None:
    lost, fine = key_in(world, 0), key_in(world, 1)
    world.log.append(Added(counter_id=lost, by=1), Added(counter_id=fine, by=1))
    world.log.skip(lost)
    world.log.append(Added(counter_id=lost, by=100), Added(counter_id=fine, by=100))

    with world.running() as projector:
        problems = until(projector.problems, "the hole is met", timeout_s=10)
        while "missing" not in problems[0]:
            problems = until(projector.problems, "the hole is met twice", timeout_s=10)
        until(lambda: world.rows().get(fine), "the other goes on")

    assert problems[0].startswith("counters:0: sequence 2 is missing, the next one is 3")
    rows = world.rows()
    assert (rows[lost].row.total, rows[fine].row.total) == (1, 101)


def test_a_failing_fold_stops_its_partition_right_before_the_event(world: World) -> None:
    bad, fine = key_in(world, 0), key_in(world, 1)
    world.log.append(Added(counter_id=bad, by=1), Added(counter_id=bad, by=FAILING))
    world.log.append(Added(counter_id=bad, by=5), Added(counter_id=fine, by=5))

    with world.running() as projector:

        def stopped() -> bool:
            return any("could not be folded" in each for each in projector.problems())

        until(stopped, "the partition stops")
        until(lambda: world.rows().get(fine), "the other goes on")

    rows = world.rows()
    assert (rows[bad].row.total, rows[fine].row.total) == (1, 5)


def test_a_recreated_topic_is_refused_and_nothing_of_it_is_folded(world: World) -> None:
    world.log.append(Added(counter_id="a", by=1))
    with world.running() as projector:
        until(reached(world, projector), "the projector reaches the end")
    delete_topic(world)
    again = until(lambda: new_writer(world), "the topic is made again")
    again.append(Added(counter_id="a", by=50), Added(counter_id="b", by=50))

    with world.running() as projector:

        def refuses() -> bool:
            return any("Restore the topic" in each for each in projector.problems())

        until(refuses, "the projector refuses")

    assert {key: row.row.total for key, row in world.rows().items()} == {"a": 1}


def test_a_database_restored_from_a_backup_is_folded_on_from_there(world: World) -> None:
    with world.running() as projector:
        world.log.append(*some_events(0, keys=10, events=300))
        until(reached(world, projector), "the projector reaches the end")
        backup = world.query("SELECT * FROM {s}.projection_positions"), world.rows()
        world.log.append(*some_events(300, keys=10, events=300))
        until(reached(world, projector), "the projector reaches the end again")

        restore(world, *backup)
        world.log.append(*some_events(600, keys=10, events=300))
        expected = world.folded()[0]
        until(lambda: world.rows() == expected, "the rows are the fold again")


def test_cut_connections_to_the_database_cost_no_event_and_fold_none_twice(world: World) -> None:
    with world.running() as projector:
        for start in range(0, 2_000, 100):
            world.log.append(*some_events(start, keys=20, events=100))
            world.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'tidelog-counter__v1_g1'"
            )
        until(reached(world, projector), "the projector reaches the end")
        until(lambda: not projector.problems(), "the projector is well again")

    assert world.rows() == world.folded()[0]


def test_the_lag_is_counted_in_sequences_and_not_in_offsets(world: World) -> None:
    key = key_in(world, 3)
    for n in range(1, 31):
        world.log.append(Added(counter_id=key, by=n))
        world.log.abort(Added(counter_id=key, by=n))
    world.log.append_raw(3, b"not ours")
    ends = LogEnds(bootstrap_servers=world.kafka, topic_prefix=world.namespace)

    found = ends.sequences([Partition("counters", number) for number in (2, 3)])

    ends.close()
    assert found == {Partition("counters", 2): 0, Partition("counters", 3): 30}


def delete_topic(world: World) -> None:
    admin = admin_client(world.kafka)
    for future in admin.delete_topics([world.log.topic]).values():
        future.result()


def new_writer(world: World) -> LogWriter | None:
    """A writer on a topic of the same name, once the broker has let go of the former."""
    try:
        return LogWriter(world.kafka, COUNTERS, world.codec, topic_prefix=world.namespace)
    except Exception:
        return None


def restore(world: World, positions: Sequence[Any], rows: dict[str, StoredRow]) -> None:
    """Put rows and positions back, in one transaction, as a restore does."""
    schema = world.database.schema
    with psycopg.connect(world.database.dsn) as connection:
        connection.execute(f"DELETE FROM {schema}.projection_positions".encode())
        connection.execute(f"DELETE FROM {schema}.counter__v1_g1".encode())
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {schema}.projection_positions VALUES "
                "(%s, %s, %s, %s, %s, %s, %s, %s)".encode(),
                positions,
            )
            cursor.executemany(
                f"INSERT INTO {schema}.counter__v1_g1 VALUES (%s, %s, %s, %s, %s, %s)".encode(),
                [
                    (key, row.row.total, row.version, row.position, row.created_at, row.updated_at)
                    for key, row in rows.items()
                ],
            )
