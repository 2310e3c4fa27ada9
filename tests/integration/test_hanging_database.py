"""Given a database that does not answer, and does not go away: nobody waits for it without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from starlette.requests import Request

from projectors.stock_level import stock_level
from query_service.projections import Projections
from query_service.reads import Database as QueryDatabase
from tests.fixtures.servers import Database
from tests.integration.query_server import PARTITIONS, ReadModel
from tidelog.errors import Unavailable
from tidelog.postgres import operations
from tidelog.postgres.operations import PostgresOperations
from tidelog.settings import Settings

LONG = b"SELECT pg_sleep(600)"
SOON_S = 20.0
"""Much less than the sleep, and much more than the bounds."""


@asynccontextmanager
async def reads(database: Database, connections_max: int) -> AsyncIterator[QueryDatabase]:
    found = QueryDatabase(dsn=database.dsn, schema=database.schema, connections_max=connections_max)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


async def test_a_statement_that_is_not_answered_is_cut_off_and_the_next_one_is_answered(
    database: Database,
) -> None:
    async with reads(database, connections_max=1) as found:
        # given a server that keeps no time of its own, as one that stands still keeps none
        await found.rows(b"SELECT set_config('statement_timeout', '0', false)", {})
        async with asyncio.timeout(SOON_S):
            with pytest.raises(Unavailable):
                await found.rows(LONG, {}, timeout_s=0.2)
        # the one connection of the pool was not lost with it
        async with asyncio.timeout(SOON_S):
            while await found.problem() is not None:
                await asyncio.sleep(0.05)


async def test_a_database_that_does_not_answer_in_time_is_not_ready(database: Database) -> None:
    async with reads(database, connections_max=1) as found:
        assert await found.problem() is None
        waiting = asyncio.create_task(found.rows(LONG, {}, timeout_s=5.0))
        await asyncio.sleep(0)
        assert await found.problem() is not None
        with pytest.raises(Unavailable):
            await waiting


@contextmanager
def locked(database: Database, table: str) -> Iterator[None]:
    """Nobody else reads or writes the table within the block."""
    with psycopg.connect(database.dsn) as connection:
        name = sql.Identifier(database.schema, table)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
        yield
        connection.rollback()


async def test_an_operation_that_cannot_be_written_is_refused_in_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresOperations(database.dsn, database.schema, document)
    await store.open()
    await store.start("one", "orders", "hash", "local")
    monkeypatch.setattr(operations, "REQUEST_TIMEOUT_S", 0.2)
    # when its table is locked, then who asks and who begins another hears that it is not there
    with locked(database, "operations"):
        with pytest.raises(Unavailable):
            await store.get("one")
        with pytest.raises(Unavailable):
            await store.start("two", "orders", "hash", "local")
    # and afterwards all is as before
    monkeypatch.undo()
    found = await store.get("one")
    await store.close()
    assert found == {"id": "one", "status": "running"}


def document(*_: Any) -> dict[str, Any]:
    raise AssertionError("nothing is finished here")


async def test_all_who_ask_for_the_read_models_wait_for_one_look(
    database: Database, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a table of read models that nobody can read
    ReadModel(database, stock_level).close()
    settings = Settings(
        kafka_bootstrap_servers=kafka,
        postgres_dsn=database.dsn,
        postgres_schema=database.schema,
        partitions=PARTITIONS,
    )
    projections = Projections(settings)
    monkeypatch.setattr("query_service.projections.LOOK_TIMEOUT_S", 1.0)
    request = Request({"type": "http", "query_string": b"", "headers": []})
    with locked(database, "projections"):
        # when many ask for it
        asked = [projections.all(request) for _ in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        waiting = waiting_for(database, "projections")
    # then each hears that it is not there, and one statement waits and not twenty
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert waiting == 1
    await asyncio.to_thread(projections.close)


def waiting_for(database: Database, table: str) -> int:
    """How many sessions wait for a lock of the table."""
    with psycopg.connect(database.dsn) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass",
            (f'"{database.schema}".{table}',),
        ).fetchone()
    assert found is not None
    return int(found[0])
