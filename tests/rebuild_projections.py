"""Read models for the tests of rebuild, verify and replay, named as a system names its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql

from tests.read_side import COUNTERS, Added, Cleared, Counter
from tidelog import Projection, Row
from tidelog.engine.reading import Fact
from tidelog.postgres.sql_projection import SqlProjection

FAILING = -1
TOO_LARGE = -2
"""`evolve` makes a row of it that no column can hold."""


def evolve(row: Counter | None, event: Added | Cleared) -> Counter | None:
    if isinstance(event, Cleared):
        return None
    if event.by == FAILING:
        raise ValueError("a bug")
    by = 2**70 if event.by == TOO_LARGE else event.by
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + by)


def evolve_otherwise(row: Counter | None, event: Added) -> Counter | None:
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + 2 * event.by)


class CounterNow(Row):
    counter_id: str
    total: int
    largest: int


def evolve_now(row: CounterNow | None, event: Added | Cleared) -> CounterNow | None:
    if isinstance(event, Cleared):
        return None
    total, largest = (row.total, row.largest) if row else (0, 0)
    return CounterNow(
        counter_id=event.counter_id, total=total + event.by, largest=max(largest, event.by)
    )


def groups(event: Added) -> Sequence[str]:
    return ["all", f"group-{event.counter_id[-1]}"]


def new_group(key: str) -> Counter:
    return Counter(counter_id=key, total=0)


def evolve_group(row: Counter | None, event: Added) -> Counter:
    assert row is not None, "initial gives it"
    if event.by == FAILING:
        raise ValueError("a bug")
    by = 2**70 if event.by == TOO_LARGE else event.by
    return Counter(counter_id=row.counter_id, total=row.total + by)


def write_journal(
    connection: Connection[Any], table: sql.Identifier, facts: Sequence[Fact]
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            sql.SQL("INSERT INTO {} (position, type, at) VALUES (%s, %s, %s)").format(table),
            [(fact.position, type(fact.event).__name__, fact.recorded_at) for fact in facts],
        )


counter = Projection(
    name="counter",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve,
    indexes=[["total", "counter_id"]],
)
counter_otherwise = Projection(
    name="counter",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve_otherwise,
)
counter_now = Projection(
    name="counter",
    version=2,
    contexts=[COUNTERS],
    row=CounterNow,
    key="counter_id",
    evolve=evolve_now,
)
grouped = Projection(
    name="grouped",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve_group,
    keys=groups,
    initial=new_group,
)
journal = SqlProjection(
    name="journal",
    version=1,
    contexts=[COUNTERS],
    columns="position text PRIMARY KEY, type text NOT NULL, at timestamptz NOT NULL",
    write=write_journal,
    indexes=["type"],
)

PROJECTIONS = (counter, grouped, journal)
OTHERWISE = (counter_otherwise,)
NOW = (counter_now,)
