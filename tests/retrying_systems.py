"""Makes the systems of the tests of retries: in memory and on PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.retrying_world import System
from tidelog import Projection
from tidelog.engine.folding import Decision
from tidelog.engine.reading import Partition
from tidelog.memory.parked_keys import MemoryHeedStore, MemoryParkedStore
from tidelog.memory.projection_store import MemoryProjectionStore, MemoryTables
from tidelog.postgres.heed_store import PostgresHeedStore
from tidelog.postgres.parked_keys import PostgresParkedStore
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.postgres.tables import Generation


@contextmanager
def systems_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., System]]:
    """Makes systems of the kind that the request's parameter names; each begins with nothing."""
    if request.param == "memory":
        yield memory_system
        return
    database: Database = request.getfixturevalue("database")
    opened: list[Any] = []
    numbers = itertools.count()

    def make(projection: Projection[Any, Any]) -> System:
        for each in opened:
            each.close()
        opened.clear()
        system = postgres_system(projection, database.dsn, f"{database.schema}_{next(numbers)}")
        opened.extend([system.store, system.parked, system.heeding, *system.stranger])
        opened.append(system.parked_keys)
        return system

    yield make
    for each in opened:
        each.close()
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for number in range(next(numbers)):
            drop = f'DROP SCHEMA IF EXISTS "{database.schema}_{number}" CASCADE'
            connection.execute(drop.encode())


def memory_system(projection: Projection[Any, Any]) -> System:
    tables = MemoryTables()
    known: dict[tuple[Partition, int], Decision] = {}
    return System(
        projection,
        MemoryProjectionStore(projection, tables, known),
        MemoryParkedStore(tables, known),
        MemoryHeedStore(tables),
        (MemoryProjectionStore(projection, tables), MemoryParkedStore(tables)),
        lambda: {key: tables.waiting.get(key, 0) for key in tables.parked_keys},
        known,
    )


class ParkedKeys:
    """How much waits behind each parked key, asked over one connection, for it is asked often."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._statement = f'SELECT key, waiting FROM "{schema}".parked_keys'.encode()

    def __call__(self) -> dict[str, int]:
        return dict(self._connection.execute(self._statement).fetchall())

    def close(self) -> None:
        self._connection.close()


def postgres_system(projection: Projection[Any, Any], dsn: str, schema: str) -> System:
    known: dict[tuple[Partition, int], Decision] = {}
    generation = Generation(projection.name, projection.version, 1)
    return System(
        projection,
        PostgresProjectionStore(projection, dsn=dsn, schema=schema, decisions=known),
        PostgresParkedStore(projection, dsn=dsn, schema=schema, generation=1, decisions=known),
        PostgresHeedStore(generation, dsn=dsn, schema=schema),
        (
            PostgresProjectionStore(projection, dsn=dsn, schema=schema),
            PostgresParkedStore(projection, dsn=dsn, schema=schema, generation=1),
        ),
        ParkedKeys(dsn, schema),
        known,
    )
