"""Given a log on a real broker, when projectors fold it into PostgreSQL, then it is its fold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, until
from tests.projector_world import FAILING, World, new_world, owned, problems, reached
from tests.read_side import COUNTERS, Added, Cleared
from tidelog.engine.folding import StoredRow
from tidelog.engine.reading import Partition
from tidelog.kafka.ends import LogEnds
from tidelog.kafka.topics import admin_client


@pytest.fixture
def world(kafka: str, namespace: str, database: Database) -> World:
    return new_world(kafka, namespace, database)


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
            until(lambda: owned(second), "the second gets partitions")
            world.log.append(*some_events(0, keys=40, events=1_000))
            until(reached(world, first, second), "together they reach the end")
            assert len(owned(first)) + len(owned(second)) == 4
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
        until(lambda: not problems(projector), "parked records leave the projector well")

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

        def missing() -> str:
            return next((each for each in problems(projector) if "missing" in each), "")

        problem = until(missing, "the hole is met")
        until(lambda: world.rows().get(fine), "the other goes on")
        until(lambda: world.rows()[fine].row.total == 101, "to its end")

    assert problem.startswith("counters:0: sequence 2 is missing, the next one is 3")
    rows = world.rows()
    assert (rows[lost].row.total, rows[fine].row.total) == (1, 101)


def test_a_failing_fold_parks_its_key_and_everything_else_goes_on(world: World) -> None:
    bad, fine = key_in(world, 0), key_in(world, 1)
    world.log.append(Added(counter_id=bad, by=1), Added(counter_id=bad, by=FAILING))
    world.log.append(Added(counter_id=bad, by=5), Added(counter_id=fine, by=5))

    with world.running() as projector:
        until(reached(world, projector), "the projector passes the failing event")
        assert problems(projector) == []

    rows = world.rows()
    assert (rows[bad].row.total, rows[fine].row.total) == (1, 5)
    assert world.query("SELECT key, sequence, error_type, waiting FROM {s}.parked_keys") == [
        (bad, 2, "ValueError", 1)
    ]


def test_a_recreated_topic_is_refused_and_nothing_of_it_is_folded(world: World) -> None:
    world.log.append(Added(counter_id="a", by=1))
    with world.running() as projector:
        until(reached(world, projector), "the projector reaches the end")
    delete_topic(world)
    again = until(lambda: new_writer(world), "the topic is made again")
    again.append(Added(counter_id="a", by=50), Added(counter_id="b", by=50))

    with world.running() as projector:

        def refuses() -> bool:
            return any("Restore the topic" in each for each in problems(projector))

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
        until(lambda: not problems(projector), "the projector is well again")

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
                f"({', '.join(['%s'] * len(positions[0]))})".encode(),
                positions,
            )
            cursor.executemany(
                f"INSERT INTO {schema}.counter__v1_g1 VALUES (%s, %s, %s, %s, %s, %s)".encode(),
                [
                    (key, row.row.total, row.version, row.position, row.created_at, row.updated_at)
                    for key, row in rows.items()
                ],
            )
