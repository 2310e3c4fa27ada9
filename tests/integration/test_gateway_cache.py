"""Given queries that come again, when nothing has changed, then the gateway answers them itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2
import psycopg
import pytest

from gateway.cache import BODY_BYTES_MAX
from projectors.order_detail import order_detail
from projectors.order_summary import order_summary
from projectors.stock_level import StockLevel, stock_level
from tests.fixtures.servers import Database
from tests.gateway_world import GuardedDoor, guarded_door, problem
from tests.integration.command_server import serving
from tests.integration.query_server import QueryServer, other_generation, query_server
from tests.integration.test_queries import ORDER
from tests.log_writer import until
from tests.scripted_queries import Scripted
from tidelog import replace
from tidelog.partitioner import partition_of
from tidelog.position import Position
from tidelog.postgres.notices import CHANNEL, notices
from tidelog.postgres.switch import switch
from tidelog.postgres.tables import Generation

PARTITIONS = 4
CACHE_BYTES = 1_000_000
FRESH = "Tidelog; fwd=uri-miss; stored"
HIT = "Tidelog; hit"


def status_of(answer: httpx2.Response) -> str:
    """What the answer says about the cache."""
    (found,) = answer.headers.get_list("cache-status")
    return found


def home(key: str) -> int:
    return partition_of(key, PARTITIONS)


# --- over real read models --------------------------------------------------------------------


@dataclass
class Shop:
    """The gateway, the query service behind it, and the database behind that."""

    door: GuardedDoor
    queries: QueryServer
    database: Database

    def get(self, target: str, **headers: str) -> httpx2.Response:
        """As a merchant, who may see everything; `If_None_Match` stands for If-None-Match."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.door.send("GET", target, "shop", "merchant", headers=named)

    def stock(self, sku: str, on_hand: int) -> str:
        """Write how much there is; the position."""
        level = StockLevel(sku=sku, on_hand=on_hand, reserved=0)
        return self.queries.models["stock_level"].write(level, on_hand, home(sku))

    def on_hand(self, sku: str) -> int:
        return int(self.get(f"/stock/{sku}").json()["on_hand"])

    def until_kept(self, *targets: str) -> None:
        """Ask until each is answered from the cache: then all that was written has been heard."""
        for target in targets:
            until(partial(self._is_kept, target), f"{target} is kept")

    def _is_kept(self, target: str) -> bool:
        return status_of(self.get(target)) == HIT


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as stack:
        queries = stack.enter_context(
            query_server(database, order_detail, order_summary, stock_level)
        )
        url = str(queries.client.base_url)
        door = stack.enter_context(
            guarded_door(tmp_path, queries_url=url, gateway_cache_bytes_max=CACHE_BYTES)
        )
        yield Shop(door, queries, database)


def test_what_comes_again_is_answered_by_the_gateway_as_the_service_has_answered_it(
    shop: Shop,
) -> None:
    token = shop.stock("tea", 7)
    answered = shop.get("/stock/tea", Consistency_Token=token)
    shop.until_kept("/stock/tea")

    again = shop.get("/stock/tea")

    assert status_of(again) == HIT
    assert again.content == answered.content
    for name in ("etag", "x-as-of", "content-type", "cache-control", "content-length"):
        assert again.headers[name] == answered.headers[name], name
    head = shop.door.send("HEAD", "/stock/tea", "shop", "merchant")
    assert (status_of(head), head.content) == (HIT, b"")
    assert head.headers["content-length"] == str(len(again.content))


def test_each_answer_has_the_correlation_id_of_its_own_request(shop: Shop) -> None:
    shop.stock("tea", 7)
    shop.until_kept("/stock/tea")

    given = shop.get("/stock/tea", X_Correlation_Id="visit-7")
    made = [shop.get("/stock/tea").headers["x-correlation-id"] for _ in range(2)]

    assert given.headers.get_list("x-correlation-id") == ["visit-7"]
    assert status_of(given) == HIT
    assert made[0] != made[1]


def test_what_has_changed_is_shown_as_soon_as_its_read_model_has_moved(shop: Shop) -> None:
    assert home("tea") != home("mug")
    shop.stock("tea", 1), shop.stock("mug", 1)
    shop.until_kept("/stock/tea", "/stock/mug", "/stock")

    shop.stock("tea", 2)

    until(lambda: shop.on_hand("tea") == 2, "the change is shown")
    assert status_of(shop.get("/stock/mug")) == HIT, "another partition changes nothing for it"
    until(lambda: [each["on_hand"] for each in shop.get("/stock").json()["items"]] == [1, 2], "too")
    shop.until_kept("/stock/tea", "/stock")
    assert shop.on_hand("tea") == 2


def test_with_a_token_the_answer_is_never_from_the_cache(shop: Shop) -> None:
    shop.stock("tea", 1)
    shop.until_kept("/stock/tea")

    for version in range(2, 30):
        token = shop.stock("tea", version)
        answer = shop.get("/stock/tea", Consistency_Token=token)
        assert status_of(answer) == "Tidelog; fwd=bypass; detail=token"
        assert answer.json()["on_hand"] == version

    assert problem(shop.get("/stock/tea", Consistency_Token="nonsense")) == (400, "malformed")
    assert problem(shop.get("/stock/tea", Consistency_Token="")) == (400, "malformed")


def test_what_the_caller_has_already_is_not_sent_again_and_fills_the_cache(shop: Shop) -> None:
    token = shop.stock("tea", 7)
    shop.get("/stock/tea", Consistency_Token=token)
    until(lambda: shop.get("/stock/tea", If_None_Match='"7"').status_code == 304, "it is there")

    until(lambda: status_of(shop.get("/stock/tea", If_None_Match='"7"')) == HIT, "it is kept")

    for tags in ('"7"', 'W/"7"', '"1", "7"', "*"):
        answer = shop.get("/stock/tea", If_None_Match=tags)
        assert (answer.status_code, answer.content, status_of(answer)) == (304, b"", HIT)
        assert answer.headers["etag"] == '"7"'
        assert "content-length" not in answer.headers
    other = shop.get("/stock/tea", If_None_Match='"6"')
    assert (other.status_code, status_of(other)) == (200, HIT)
    assert problem(shop.get("/stock/tea", If_None_Match="7")) == (400, "malformed")


def test_whoever_wants_no_cache_gets_none(shop: Shop) -> None:
    shop.stock("tea", 7)
    shop.until_kept("/stock/tea")

    for name in ("Cache_Control", "Pragma"):
        asked = shop.get("/stock/tea", **{name: "no-cache"})
        assert status_of(asked) == "Tidelog; fwd=bypass; detail=asked"


def test_what_is_no_read_model_of_today_is_not_kept(shop: Shop) -> None:
    shop.queries.models["order_detail"].write(ORDER, 3, home("o-1"))
    shop.until_kept("/orders/o-1")

    answer = shop.get("/orders/o-1?as_of=3")
    assert status_of(answer) == "Tidelog; fwd=bypass; detail=form"
    for target in ("/orders/nobody", "/stock/nothing"):
        first, second = shop.get(target), shop.get(target)
        assert problem(first) == problem(second) == (404, "unknown")
        assert status_of(first) == status_of(second) == "Tidelog; fwd=uri-miss"
    assert "cache-status" not in shop.door.send("GET", "/projections", "op", "operator").headers


def test_when_another_generation_serves_nothing_of_the_one_before_is_shown(shop: Shop) -> None:
    shop.stock("tea", 1), shop.queries.models["order_detail"].write(ORDER, 3, home("o-1"))
    shop.until_kept("/stock/tea", "/orders/o-1")
    with other_generation(shop.database, stock_level, 2) as other:
        other.write(StockLevel(sku="tea", on_hand=9, reserved=0), 1, home("tea"))

    # At the very positions of the generation before: only the rows are others.
    with psycopg.connect(shop.database.dsn) as connection:
        schema = shop.database.schema
        assert switch(connection, schema, Generation("stock_level", 1, 2)) is None
    until(lambda: shop.on_hand("tea") == 9, "the other generation is shown")
    shop.until_kept("/stock/tea", "/orders/o-1")
    with psycopg.connect(shop.database.dsn) as connection:
        assert switch(connection, schema, Generation("stock_level", 1, 1)) is None
    until(lambda: shop.on_hand("tea") == 1, "and back")


def test_a_row_that_a_retry_has_folded_again_is_shown_though_no_position_moved(
    shop: Shop,
) -> None:
    position = Position("inventory", home("tea"), 1)
    shop.stock("tea", 1)
    shop.until_kept("/stock/tea")

    # As the transaction that ends a retry does: a row, and its partition's positions as they are.
    with psycopg.connect(shop.database.dsn) as connection:
        schema = shop.database.schema
        connection.execute(f"UPDATE {schema}.stock_level__v1_g1 SET on_hand = 5".encode())
        for notice in notices(schema, Generation("stock_level", 1, 1), [position]):
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, notice))

    until(lambda: shop.on_hand("tea") == 5, "the row of the retry is shown")


def test_a_database_that_went_back_is_shown_as_it_is(shop: Shop) -> None:
    shop.stock("tea", 1), shop.stock("tea", 2)
    shop.until_kept("/stock/tea")

    with psycopg.connect(shop.database.dsn, autocommit=True) as connection:
        schema = shop.database.schema
        with connection.transaction():
            connection.execute(f"UPDATE {schema}.stock_level__v1_g1 SET on_hand = 1".encode())
            connection.execute(
                f"UPDATE {schema}.projection_positions SET sequence = 1 "
                f"WHERE context = 'inventory' AND partition = {home('tea')}".encode()
            )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'tidelog-listener'"
        )

    until(lambda: shop.on_hand("tea") == 1, "what the database no longer holds is not shown")
    shop.until_kept("/stock/tea")
    assert shop.on_hand("tea") == 1


def test_writers_and_readers_at_once_never_show_a_row_that_goes_back(shop: Shop) -> None:
    shop.stock("tea", 1)
    shop.until_kept("/stock/tea")
    statuses: list[str] = []
    done = threading.Event()

    def write() -> None:
        for version in range(2, 200):
            shop.stock("tea", version)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [1]
    while not done.is_set():
        answer = shop.get("/stock/tea")
        statuses.append(status_of(answer))
        seen.append(answer.json()["on_hand"])
    writer.join()
    assert seen == sorted(seen)
    until(lambda: shop.on_hand("tea") == 199, "the last one is shown")


def test_a_customer_is_shown_from_the_cache_what_is_theirs_and_nothing_else(shop: Shop) -> None:
    for customer in ("ada", "bob"):
        order = replace(ORDER, order_id=f"o-{customer}", customer_id=customer)
        shop.queries.models["order_detail"].write(order, 1, home(order.order_id))
    shop.until_kept("/orders/o-ada", "/orders/o-bob", "/orders")

    def asks(who: str, target: str) -> httpx2.Response:
        return shop.door.send("GET", target, who, "customer")

    for _ in range(2):
        for who, other in (("ada", "bob"), ("bob", "ada")):
            own = asks(who, f"/orders/o-{who}")
            assert (own.status_code, own.json()["customer_id"]) == (200, who)
            others = asks(who, f"/orders/o-{other}")
            assert problem(others) == (404, "unknown")
            assert "cache-status" not in others.headers
            assert problem(asks(who, f"/orders?customer_id={other}")) == (404, "unknown")
    assert status_of(asks("ada", "/orders/o-ada")) == HIT
    nobody = shop.door.send("GET", "/orders/o-ada")
    assert problem(nobody) == (401, "unauthorized")


# --- over a query service that says what the test wants -----------------------------------------


@dataclass
class Door:
    """The gateway before the scripted service."""

    client: httpx2.Client
    service: Scripted

    def status(self, target: str = "/stock/tea") -> str:
        return status_of(self.client.get(target))

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        (found,) = [line for line in lines if line.startswith(f"{name} ")]
        return float(found.split()[1])


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    service = Scripted()
    with (
        serving(cast("Any", service)) as url,
        guarded_door(
            tmp_path, queries_url=url, gateway_auth="off", gateway_cache_bytes_max=CACHE_BYTES
        ) as guarded,
    ):
        door = Door(guarded.client, service)
        until(lambda: door.metric("tidelog_gateway_cache_on") == 1, "positions are heard")
        yield door


UNKNOWN = "Tidelog; fwd=bypass; detail=positions-unknown"


def test_a_query_that_comes_again_reaches_no_service_until_something_moves(door: Door) -> None:
    assert [door.status() for _ in range(4)] == [FRESH, HIT, HIT, HIT]
    assert door.service.asked == ["/stock/tea"]

    door.service.tell("moved", {"stock_level": "inventory:0:5"})

    until(lambda: door.status() != HIT, "what has moved is asked for")
    assert door.service.asked == ["/stock/tea", "/stock/tea"]
    assert door.status() == HIT


def test_where_the_stream_ends_nothing_is_kept_until_all_positions_have_come(door: Door) -> None:
    assert [door.status(), door.status()] == [FRESH, HIT]

    door.service.refuses = True
    door.service.cut()

    until(lambda: door.status() == UNKNOWN, "the stream has ended")
    opened = door.service.opened
    until(lambda: door.service.opened > opened + 2, "it is asked for again and again")
    assert door.status() == UNKNOWN
    assert door.metric("tidelog_gateway_cache_on") == 0
    door.service.refuses = False
    until(lambda: door.status() != UNKNOWN, "it is there again")
    assert door.metric("tidelog_gateway_cache_on") == 1
    assert door.status() == HIT


def test_a_stream_that_is_silent_is_not_believed(door: Door) -> None:
    assert [door.status(), door.status()] == [FRESH, HIT]

    # Comments show that the service lives, and not that its database does.
    door.service.refuses, door.service.talks = True, False

    until(lambda: door.status() == UNKNOWN, "nothing was heard for too long")
    assert door.status() == UNKNOWN


def test_what_changes_while_an_answer_is_on_its_way_keeps_it_out(door: Door) -> None:
    assert [door.status("/stock/cup"), door.status("/stock/cup")] == [FRESH, HIT]
    door.service.held = "/stock/tea"
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(door.status()))
    asking.start()
    assert door.service.reading.wait(20)

    # The rows are read, the answer waits; a retry changes them, and the gateway hears of it.
    door.service.tell("moved", {"stock_level": "inventory:0:5"})
    until(lambda: door.status("/stock/cup") != HIT, "the gateway has heard of it")
    door.service.let_go.set()
    asking.join()

    assert found == ["Tidelog; fwd=uri-miss"]
    assert [door.status(), door.status()] == [FRESH, HIT]


def test_an_answer_as_of_other_positions_than_were_told_is_not_kept(door: Door) -> None:
    for as_of in ("inventory:0:4", "nonsense", ""):
        door.service.as_of = as_of
        assert [door.status(), door.status()] == ["Tidelog; fwd=uri-miss"] * 2

    # Of later ones it is news, as good as told.
    door.service.as_of = "inventory:0:6"
    assert [door.status() for _ in range(3)] == ["Tidelog; fwd=uri-miss", FRESH, HIT]


def test_an_answer_that_is_too_large_is_passed_on_and_not_kept(door: Door) -> None:
    door.service.body = b"x" * (BODY_BYTES_MAX + 1)

    answers = [door.client.get("/stock/tea") for _ in range(2)]

    assert [status_of(answer) for answer in answers] == ["Tidelog; fwd=uri-miss"] * 2
    assert {answer.content for answer in answers} == {door.service.body}


def test_many_queries_take_no_more_room_than_the_setting_says(tmp_path: Path) -> None:
    service = Scripted(body=b"x" * 20_000)
    with (
        serving(cast("Any", service)) as url,
        guarded_door(
            tmp_path, queries_url=url, gateway_auth="off", gateway_cache_bytes_max=100_000
        ) as guarded,
    ):
        door = Door(guarded.client, service)
        until(lambda: door.metric("tidelog_gateway_cache_on") == 1, "positions are heard")
        for number in range(20):
            assert door.status(f"/stock/sku-{number}") == FRESH
            assert 20_000 < door.metric("tidelog_gateway_cache_bytes") <= 100_000
        assert door.metric("tidelog_gateway_cache_entries") == 4
        assert door.status("/stock/sku-19") == HIT


def test_with_no_room_there_is_no_cache_and_nobody_listens(tmp_path: Path) -> None:
    service = Scripted()
    with (
        serving(cast("Any", service)) as url,
        guarded_door(
            tmp_path, queries_url=url, gateway_auth="off", gateway_cache_bytes_max=0
        ) as guarded,
    ):
        answers = [guarded.client.get("/stock/tea") for _ in range(2)]

    assert all("cache-status" not in answer.headers for answer in answers)
    assert (service.asked, service.opened) == (["/stock/tea"] * 2, 0)


def test_the_stream_of_positions_is_on_no_route_of_the_gateway(door: Door) -> None:
    assert problem(door.client.get("/positions/live")) == (404, "unknown")
