"""What is parked, over HTTP; and a read after a write whose row waits behind a parked event."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from projectors.stock_level import StockLevel, stock_level
from schemas.inventory import INVENTORY, StockReceived
from tests.fixtures.servers import Database
from tests.integration.query_server import PARTITIONS, QueryServer, problem, query_server
from tests.read_side import record
from tidelog.engine.folding import Changes, KeyParked
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Step, TopicInfo
from tidelog.engine.reading import EventReader, Fact, ParkedRecord, Partition
from tidelog.memory import MemoryCodec
from tidelog.postgres.projection_store import PostgresProjectionStore

AT = Partition("inventory", 1)
CODEC = MemoryCodec([StockReceived])


@pytest.fixture
def server(database: Database) -> Iterator[QueryServer]:
    with query_server(database, stock_level) as running:
        yield running


def fact_of(sku: str, sequence: int) -> Fact:
    """An event of the SKU at this sequence."""
    stored = record(
        StockReceived(sku=sku, quantity=1),
        offset=sequence,
        sequence=sequence,
        version=sequence,
        context=INVENTORY,
        codec=CODEC,
    )
    fact = EventReader([INVENTORY], CODEC).event(AT, stored)
    assert isinstance(fact, Fact)
    return fact


def park(database: Database, *skus: str, record_too: bool = False) -> str:
    """An event of each SKU fails, as the live fold finds it; the position after them."""
    store = PostgresProjectionStore(stock_level, dsn=database.dsn, schema=database.schema)
    store.open({"inventory": TopicInfo("topic", PARTITIONS)})
    before = store.progress()[AT]
    facts = [fact_of(sku, before.sequence + n) for n, sku in enumerate(skus, start=1)]
    end = Progress(facts[-1].sequence, facts[-1].offset)
    parked = [
        KeyParked(
            fact.metadata.subject,
            fact,
            ValueError("more than fits"),
            {AT: Progress(fact.sequence - 1, fact.offset - 1)},
        )
        for fact in facts
    ]
    stray = ParkedRecord(AT, facts[-1].record._replace(offset=99), end.sequence, False, "not ours")
    store.apply(
        Step(
            before={AT: before},
            after={AT: end},
            parked=[stray] if record_too else [],
            facts=facts,
            touched=list(skus),
            keys=[],
            shared=False,
            fold=lambda _, __: Changes({}, [], parked, {skus[0]: 2}),
        )
    )
    store.close()
    return f"inventory:1:{end.sequence}"


def test_nothing_is_parked_at_first(server: QueryServer) -> None:
    answer = server.get("/parked")
    assert answer.status_code == 200
    assert answer.json() == {"items": [], "next_cursor": None}


def test_a_parked_row_is_listed_with_its_event_and_what_waits(
    server: QueryServer, database: Database
) -> None:
    park(database, "tea")

    (item,) = server.get("/parked?kind=projection").json()["items"]

    assert item["kind"] == "projection"
    assert (item["projection"], item["key"], item["version"]) == ("stock_level", "tea", 1)
    assert item["position"] == "inventory:1:1"
    assert (item["event_type"], item["aggregate_id"]) == ("StockReceived", "tea")
    assert (item["error_type"], item["error"]) == ("ValueError", "more than fits")
    assert (item["attempts"], item["waiting"], item["serving"]) == (1, 2, True)
    assert item["target"] == "stock_level~1~inventory~1~1"
    parked_at = datetime.fromisoformat(item["parked_at"])
    assert datetime.fromisoformat(item["next_attempt_at"]) > parked_at
    assert parked_at < datetime.now(UTC)


def test_records_that_are_not_ours_are_listed_beside(
    server: QueryServer, database: Database
) -> None:
    park(database, "tea", record_too=True)
    items = server.get("/parked?kind=projection").json()["items"]
    assert sorted(item["error"] for item in items) == ["more than fits", "not ours"]


def test_commands_that_could_not_be_decided_are_listed_once_there_are_any(
    server: QueryServer, database: Database
) -> None:
    assert server.get("/parked?kind=command").json()["items"] == []
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            f'CREATE TABLE "{database.schema}".parked_commands (context text, partition int, '
            '"offset" bigint, reason text, key bytea, value bytea, headers jsonb, '
            "parked_at timestamptz DEFAULT now())".encode()
        )
        connection.execute(
            f'INSERT INTO "{database.schema}".parked_commands '
            "VALUES ('orders', 2, 7, 'no command', 'o-1', NULL, '[]')".encode()
        )
    (item,) = server.get("/parked?kind=command").json()["items"]
    assert (item["kind"], item["key"], item["offset"]) == ("command", "o-1", 7)
    assert item["error"] == "no command"


def test_the_list_goes_on_page_by_page_and_each_is_seen_once(
    server: QueryServer, database: Database
) -> None:
    skus = [f"sku-{n}" for n in range(7)]
    park(database, *skus)
    pages = list(server.pages("/parked?kind=projection&limit=3", "inventory:1:1"))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert sorted(item["key"] for page in pages for item in page) == skus


@pytest.mark.parametrize("kind", ["saga", "effect"])
def test_a_kind_of_which_nothing_is_parked_is_an_empty_list(
    server: QueryServer, database: Database, kind: str
) -> None:
    park(database, "tea")
    assert server.get(f"/parked?kind={kind}").json()["items"] == []


@pytest.mark.parametrize("query", ["kind=row", "kind=", "color=red", "limit=0", "cursor=x"])
def test_a_query_of_another_form_is_refused(server: QueryServer, query: str) -> None:
    assert server.get(f"/parked?{query}").status_code in (400, 422)


def test_a_read_after_a_write_that_is_parked_is_told_which_event_blocks_it(
    server: QueryServer, database: Database
) -> None:
    row = StockLevel(sku="tea", on_hand=5, reserved=0)
    before = server.models["stock_level"].write(row, 1, AT.number)
    after = park(database, "tea")

    answer = server.get("/stock/tea", Consistency_Token=after)

    assert problem(answer) == (409, "blocked")
    assert "StockReceived at inventory:1:2" in answer.json()["detail"]
    # What the row holds may be read: without a token, and with one that asks for no more.
    assert server.get("/stock/tea").json()["on_hand"] == 5
    assert server.get("/stock/tea", Consistency_Token=before).status_code == 200


def test_a_parked_row_blocks_no_other(server: QueryServer, database: Database) -> None:
    server.models["stock_level"].write(StockLevel(sku="cup", on_hand=1, reserved=0), 1, AT.number)
    after = park(database, "tea")
    assert server.get("/stock/cup", Consistency_Token=after).status_code == 200


def test_a_row_that_is_parked_no_more_is_read_again(
    server: QueryServer, database: Database
) -> None:
    server.models["stock_level"].write(StockLevel(sku="tea", on_hand=1, reserved=0), 1, AT.number)
    after = park(database, "tea")
    assert server.get("/stock/tea", Consistency_Token=after).status_code == 409
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f'DELETE FROM "{database.schema}".parked_keys'.encode())
    assert server.get("/stock/tea", Consistency_Token=after).status_code == 200
