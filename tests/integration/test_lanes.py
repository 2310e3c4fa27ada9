"""Given several read models over one log, when one is behind or stuck, then no other notices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql

from tests.fixtures.servers import Database
from tests.log_writer import until
from tests.projector_world import World, counter, new_world, problems, reached
from tests.read_side import COUNTERS, Added
from tidelog import lanes
from tidelog.definition import definition_hash
from tidelog.engine.reading import Fact
from tidelog.postgres.generations import register
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.tables import Generation

other = replace(counter, name="other")
EVENTS = 3_000  # more than a queue of these tests holds


@pytest.fixture
def world(kafka: str, namespace: str, database: Database) -> World:
    return new_world(kafka, namespace, database)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is far is nearer in these tests."""
    monkeypatch.setattr(lanes, "LANE_GAP_EVENTS", 300)
    monkeypatch.setattr(lanes, "JOIN_GAP_EVENTS", 150)
    monkeypatch.setattr(lanes, "FULL_S", 0.3)


def some_events(start: int, events: int) -> Sequence[Added]:
    return [Added(counter_id=f"c-{n % 40}", by=n) for n in range(start, start + events)]


@contextmanager
def locked(world: World, table: str) -> Iterator[None]:
    """Nobody else can write the table."""
    with psycopg.connect(world.database.dsn) as connection:
        name = sql.Identifier(world.database.schema, table)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
        yield
        connection.rollback()


def totals(world: World, view: str) -> dict[str, int]:
    try:
        return dict(world.query(f"SELECT counter_id, total FROM {{s}}.{view}"))
    except psycopg.errors.UndefinedTable:
        return {}  # not made yet


def folded(world: World) -> dict[str, int]:
    return {key: row.row.total for key, row in world.folded()[0].items()}


def test_a_read_model_whose_table_is_locked_holds_up_no_other(world: World, near: None) -> None:
    with world.running(counter, other) as projectors:
        world.log.append(*some_events(0, 10))
        until(reached(world, projectors), "both run")
        with locked(world, "counter__v1_g1"):
            for start in range(10, EVENTS, 500):
                world.log.append(*some_events(start, 500))
            expected = folded(world)
            until(lambda: totals(world, "other") == expected, "the other reaches the end")
            until(projectors.apart, "the stuck one has a lane of its own")
            world.log.append(Added(counter_id="new", by=1))
            until(lambda: totals(world, "other").get("new"), "the other is fresh")
        until(reached(world, projectors), "the stuck one catches up")
        until(lambda: not projectors.apart(), "it comes back to the others")
        world.log.append(Added(counter_id="newer", by=1))
        until(lambda: totals(world, "counter").get("newer"), "it is fed in the live lane")

    assert totals(world, "counter") == totals(world, "other") == folded(world)


def test_a_new_read_model_catches_up_beside_the_others_and_joins_them(
    world: World, near: None
) -> None:
    for start in range(0, EVENTS, 500):
        world.log.append(*some_events(start, 500))
    with world.running(counter) as projectors:
        until(reached(world, projectors), "the first is at the end")

    with world.running(counter, other) as projectors:
        world.log.append(Added(counter_id="new", by=1))
        until(lambda: totals(world, "counter").get("new"), "the first goes on")
        until(reached(world, projectors), "the new one catches up")
        until(lambda: not projectors.apart(), "it joins")

    assert totals(world, "counter") == totals(world, "other") == folded(world)


def test_a_generation_that_is_registered_is_fed_until_it_is_dropped(world: World) -> None:
    world.log.append(*some_events(0, 500))
    with world.running() as projectors:
        until(reached(world, projectors), "the first generation is at the end")
        with psycopg.connect(world.database.dsn) as connection:
            second = Generation("counter", 1, 2)
            schema = world.database.schema
            register(connection, schema, second, serving=False, state="live", definition="")
        until(lambda: len(projectors.feeders) == 2, "the second is noticed")
        until(reached(world, projectors), "both are at the end")
        assert totals(world, "counter__v1_g2") == totals(world, "counter") == folded(world)

        drop_second(world)
        until(lambda: len(projectors.feeders) == 1, "it is fed no more")
        world.log.append(*some_events(500, 100))
        until(reached(world, projectors), "the first goes on")
        assert problems(projectors) == []

    assert world.query("SELECT to_regclass('{s}.counter__v1_g2') IS NULL") == [(True,)]
    assert totals(world, "counter") == folded(world)


def drop_second(world: World) -> None:
    with psycopg.connect(world.database.dsn) as connection:
        schema = world.database.schema
        for statement in (
            "DELETE FROM {s}.projections WHERE generation = 2",
            "DELETE FROM {s}.projection_positions WHERE generation = 2",
            "DROP TABLE {s}.counter__v1_g2",
        ):
            connection.execute(statement.format(s=schema).encode())


def test_a_definition_that_changed_stands_until_it_is_adopted_and_no_other_does(
    world: World,
) -> None:
    world.log.append(*some_events(0, 100))
    with world.running() as projectors:
        until(reached(world, projectors), "it is at the end")
    changed = replace(counter, indexes=[["total"]])

    with world.running(changed, other) as projectors:
        until(
            lambda: any("adopt counter" in each for each in projectors.problems("counter")),
            "it says what to do",
        )
        world.log.append(*some_events(100, 100))
        expected = folded(world)
        until(lambda: totals(world, "other") == expected, "the other goes on")
        assert totals(world, "counter") != expected
        with psycopg.connect(world.database.dsn) as connection:
            connection.execute(
                f"UPDATE {world.database.schema}.projections SET definition = %s "
                "WHERE name = 'counter'".encode(),
                (definition_hash(changed),),
            )
        until(lambda: totals(world, "counter") == expected, "it goes on without a restart")
        until(lambda: not problems(projectors), "all is well")


def test_a_new_version_is_not_filled_before_its_rebuild(world: World) -> None:
    world.log.append(*some_events(0, 100))
    with world.running() as projectors:
        until(reached(world, projectors), "version 1 is at the end")

    with world.running(replace(counter, version=2), other) as projectors:
        until(lambda: totals(world, "other") == folded(world), "the other is fed")
        (note,) = projectors.notes()
        assert note == (
            "counter has version 2, and no table of it is registered. "
            "Fill it: `tidelog projection rebuild counter`."
        )
        assert [each.name for each in projectors.feeders] == ["other__v1_g1"]
        until(lambda: not problems(projectors), "nothing is wrong")

    assert totals(world, "counter") == folded(world)


def write_events(connection: Connection[Any], table: sql.Identifier, facts: Sequence[Fact]) -> None:
    events: list[Any] = [fact.event for fact in facts]
    connection.execute(
        sql.SQL("INSERT INTO {} SELECT * FROM unnest(%s::text[], %s::bigint[])").format(table),
        ([each.counter_id for each in events], [each.by for each in events]),
    )


def test_a_projection_that_writes_its_own_sql_is_fed_beside_the_others(world: World) -> None:
    own = SqlProjection(
        name="own",
        version=1,
        contexts=[COUNTERS],
        columns="counter_id text NOT NULL, by bigint NOT NULL",
        write=write_events,
    )
    with world.running(own, counter) as projectors:
        for start in range(0, EVENTS, 300):
            world.log.append(*some_events(start, 300))
        until(reached(world, projectors), "both are at the end")

    summed = world.query("SELECT counter_id, sum(by)::bigint FROM {s}.own GROUP BY 1")
    assert dict(summed) == totals(world, "counter") == folded(world)


def test_processes_with_different_lists_feed_the_same_table_and_lose_nothing(world: World) -> None:
    with world.running(counter) as first, world.running(counter, other) as second:
        for start in range(0, EVENTS, 300):
            world.log.append(*some_events(start, 300))
        expected = folded(world)
        until(lambda: totals(world, "counter") == expected, "the table both feed is at the end")
        until(lambda: totals(world, "other") == expected, "the other is at the end")
        until(lambda: not (problems(first) or problems(second)), "both are well")
