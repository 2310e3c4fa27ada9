"""Given read models that move, when a gateway listens, then it hears all that may have changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from projectors.stock_level import StockLevel, stock_level
from query_service.app import build
from query_service.positions import READERS_MAX, PositionFeed
from query_service.sse import Inbox
from tests.fixtures.servers import Database
from tests.integration.command_server import serving
from tests.integration.query_server import (
    QueryServer,
    other_generation,
    problem,
    query_server,
)
from tidelog.engine.reading import Partition
from tidelog.position import Position
from tidelog.postgres.listener import PositionListener
from tidelog.postgres.notices import CHANNEL, notices
from tidelog.postgres.switch import switch
from tidelog.postgres.tables import Generation
from tidelog.settings import Settings

TIMEOUT_S = 30.0
FIRST, SECOND = Generation("stock_level", 1, 1), Generation("stock_level", 1, 2)


class Told(NamedTuple):
    """One event."""

    event: str
    data: dict[str, Any]


@pytest.fixture
def asked(database: Database) -> Iterator[QueryServer]:
    with query_server(database, stock_level) as server:
        yield server


@contextmanager
def listening(asked: QueryServer) -> Iterator[Iterator[Told]]:
    """What is told, without that nothing has happened; it ends where the stream does."""
    with asked.client.stream("GET", "/positions/live", timeout=TIMEOUT_S) as answer:
        assert answer.status_code == 200, answer.read()
        yield (told for told in events(answer.iter_lines()) if told.event != "alive")


def events(lines: Iterator[str]) -> Iterator[Told]:
    event = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield Told(event, json.loads(value))


def write(asked: QueryServer, on_hand: int, partition: int) -> str:
    level = StockLevel(sku="tea", on_hand=on_hand, reserved=0)
    return asked.models["stock_level"].write(level, on_hand, partition)


def all_at(generation: Generation, **stands: int) -> Told:
    stood = {f"inventory:{number}": 0 for number in range(4)} | {
        name.replace("_", ":"): sequence for name, sequence in stands.items()
    }
    positions = ",".join(f"{at}:{sequence}" for at, sequence in sorted(stood.items()))
    models = {"stock_level": {"generation": generation.table, "positions": positions}}
    return Told("positions", {"partitions": 4, "read_models": models})


def moved(positions: str) -> Told:
    return Told("moved", {"stock_level": positions})


def test_a_gateway_is_told_all_positions_and_then_each_that_moves(asked: QueryServer) -> None:
    token = write(asked, 1, 2)
    assert asked.get("/stock/tea", Consistency_Token=token).status_code == 200
    with listening(asked) as told:
        assert next(told) == all_at(FIRST, inventory_2=1)
        for partition in (0, 2, 3):
            position = write(asked, 2, partition)
            assert next(told) == moved(position)


def test_a_gateway_is_told_of_a_partition_that_was_written_and_stands_where_it_stood(
    asked: QueryServer, database: Database
) -> None:
    with listening(asked) as told, psycopg.connect(database.dsn, autocommit=True) as connection:
        next(told)
        for notice in notices(database.schema, FIRST, [Position("inventory", 1, 0)]):
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, notice))

        assert next(told) == moved("inventory:1:0")


def test_of_a_generation_that_does_not_serve_nothing_is_told_until_it_does(
    asked: QueryServer, database: Database
) -> None:
    with (
        other_generation(database, stock_level, 2) as other,
        listening(asked) as told,
        psycopg.connect(database.dsn, autocommit=True) as connection,
    ):
        assert next(told) == all_at(FIRST)
        other.write(StockLevel(sku="tea", on_hand=9, reserved=0), 1, 1)
        # A generation that nobody knew has everything read anew.
        assert next(told) == all_at(FIRST)
        other.write(StockLevel(sku="tea", on_hand=8, reserved=0), 2, 1)

        assert switch(connection, database.schema, SECOND) is None

        assert next(told) == all_at(SECOND, inventory_1=2)


def test_the_stream_ends_when_what_happens_is_not_heard_any_more(
    asked: QueryServer, database: Database
) -> None:
    with listening(asked) as told:
        next(told)
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'tidelog-listener'"
            )

        assert list(told) == []


def test_without_a_database_there_is_no_stream() -> None:
    settings = Settings(postgres_dsn="postgresql://nobody@127.0.0.1:9/none")
    with (
        serving(build(settings, CollectorRegistry())) as url,
        httpx2.Client(base_url=url, trust_env=False) as client,
    ):
        assert problem(client.get("/positions/live")) == (503, "unavailable")
        assert READERS_MAX < 1_000, "gateways, and not browsers"


async def test_a_reader_that_is_slow_hears_all_in_one_piece_and_needs_no_more_room() -> None:
    listener = PositionListener(dsn="", schema="public", waiters_max=1)
    listener.trouble = None
    feed, inbox = PositionFeed(listener, partitions=4), Inbox()
    with feed._subscribed(inbox):
        feed.moved("stock_level", {Partition("inventory", 3): 1})
        assert await inbox.take(0) == b"", "nothing before the connection has answered"
        feed.proved()
        for sequence in range(1, 10_000):
            feed.moved("stock_level", {Partition("inventory", sequence % 3): sequence})
            feed.proved()
        first = await inbox.take(1)
        assert first is not None and first.count(b"event: positions") == 1
        second = await inbox.take(1)
        assert second is not None
        feed.anew()
        third = await inbox.take(1)
        feed.proved()
        fourth = await inbox.take(1)

    assert b"moved" not in first
    assert second == (
        b"id: -\nevent: moved\n"
        b'data: {"stock_level":"inventory:0:9999,inventory:1:9997,inventory:2:9998"}\n\n'
    )
    assert third is not None and third.count(b"event: positions") == 1
    assert fourth == b"id: -\nevent: alive\ndata: {}\n\n"
