"""Given a database that crashes and comes back, nobody is told what it no longer holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import psycopg
import pytest
from starlette.requests import Request

from projectors.stock_level import StockLevel, stock_level
from query_service.reads import tagged
from tests.fixtures.servers import Database
from tests.integration.query_server import ReadModel
from tidelog.engine.reading import Partition
from tidelog.errors import Unavailable
from tidelog.postgres.listener import PositionListener

AT = Partition("inventory", 0)
TIMEOUT_S = 20.0


def test_positions_from_before_a_crash_are_forgotten(database: Database) -> None:
    # given a listener that has heard of five events
    model = ReadModel(database, stock_level)
    for version in range(1, 6):
        model.write(StockLevel(sku="tea", on_hand=version, reserved=0), version, 0)
    model.close()
    seen = asyncio.run(over_a_crash(database))
    # then it says five, then nothing, then the three that are still there, and never five again
    assert seen == [5, None, 3]


async def over_a_crash(database: Database) -> list[int | None]:
    """What the listener says, while its connection breaks and two events are lost."""
    listener = PositionListener(dsn=database.dsn, schema=database.schema, waiters_max=1)
    running = asyncio.create_task(listener.run())
    seen: list[int | None] = []

    async def until(look: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not look():
                now = listener.reached("stock_level").get(AT)
                if seen and now != seen[-1]:
                    seen.append(now)
                await asyncio.sleep(0)

    await until(lambda: listener.reached("stock_level").get(AT) == 5)
    seen.append(5)
    await asyncio.to_thread(lose_two_events, database)
    await until(lambda: seen[-1] == 3)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return seen


def lose_two_events(database: Database) -> None:
    """As a crash before the last commits were durable: positions go back, connections break."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            f"UPDATE {database.schema}.projection_positions SET sequence = 3 "
            "WHERE context = 'inventory' AND partition = 0".encode()
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'tidelog-listener'"
        )


def test_rows_that_were_read_after_a_crash_are_not_shown_under_a_promise_from_before(
    database: Database,
) -> None:
    listener = PositionListener(dsn=database.dsn, schema=database.schema, waiters_max=1)
    request = Request({"type": "http", "headers": []})
    request.state.settled = (listener, listener.breaks)
    assert tagged(request, b"{}", "1", "inventory:0:5").status_code == 200

    listener.breaks += 1

    with pytest.raises(Unavailable):
        tagged(request, b"{}", "1", "inventory:0:5")
