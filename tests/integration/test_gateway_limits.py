"""Given callers and browsers, when they come too often or from elsewhere, then bounds hold."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest

from gateway.public import HEADERS
from gateway.quotas import BUCKETS_MAX, Quotas, TooMany
from tests.gateway_world import GuardedDoor, guarded_door, problem
from tidelog.errors import ConfigurationError

SHOP = "https://shop.example"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[GuardedDoor]:
    with guarded_door(
        tmp_path,
        gateway_queries_per_minute=3,
        gateway_commands_per_minute=5,
        gateway_cors_origins=f"{SHOP}, http://localhost:3000",
    ) as door:
        yield door


def test_a_caller_who_comes_too_often_is_told_when_to_go_on(door: GuardedDoor) -> None:
    answers = [door.send("GET", "/stock", "ada", "customer") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"queries";q=3;w=60'
    assert answers[0].headers["ratelimit"].startswith('"queries";r=2;t=')
    assert problem(answers[3]) == (429, "quota-exceeded")
    assert answers[3].headers["ratelimit"].startswith('"queries";r=0;t=')
    (wait,) = answers[3].headers.get_list("retry-after")
    assert 1 <= int(wait) <= 20
    assert len(door.queries.told) == 3


def test_a_caller_has_so_many_streams_and_not_one_more(tmp_path: Path) -> None:
    with guarded_door(tmp_path, gateway_streams_per_caller_max=2) as door:
        door.queries.endless.add("/orders/o-ada/live")

        def follow() -> AbstractContextManager[httpx2.Response]:
            headers = door.signer.headers("ada", "customer")
            return door.client.stream("GET", "/orders/o-ada/live", headers=headers)

        with follow() as first, follow() as second:
            assert (first.status_code, second.status_code) == (200, 200)
            with follow() as third:
                third.read()
                assert problem(third) == (429, "quota-exceeded")
        until = time.monotonic() + 20
        freed = False
        while not freed:
            with follow() as again:
                freed = again.status_code == 200
            assert time.monotonic() < until, "a stream that ended is counted still"


def test_one_callers_requests_are_not_anothers_nor_another_routes(door: GuardedDoor) -> None:
    for _ in range(4):
        door.send("GET", "/stock", "ada", "customer")

    assert door.send("GET", "/stock", "bob", "customer").status_code == 200
    assert door.send("GET", "/stock/tea", "ada", "customer").status_code == 200
    assert door.send("GET", "/stock", "ada", "customer").status_code == 429


def test_each_line_of_many_commands_counts(door: GuardedDoor) -> None:
    line = '{"command": "inventory/receive-stock", "id": "tea", "data": {}}\n'

    assert door.send("POST", "/commands", "max", "merchant", content=line * 4).status_code == 200
    refused = door.send("POST", "/commands", "max", "merchant", content=line * 4)
    assert problem(refused) == (429, "quota-exceeded")
    assert len(door.commands.told) == 1


def test_without_authentication_nothing_is_counted(tmp_path: Path) -> None:
    with guarded_door(tmp_path, gateway_auth="off", gateway_queries_per_minute=1) as door:
        answers = [door.send("GET", "/stock") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert "ratelimit" not in answers[0].headers


def test_a_bucket_fills_all_the_time_and_never_beyond_its_quota() -> None:
    now = [0.0]
    quotas = Quotas(lambda: now[0])

    def passes(cost: int = 1) -> bool:
        try:
            quotas.take("queries", 60, "ada", "/stock", cost)
        except TooMany:
            return False
        return True

    assert all(passes() for _ in range(60))
    assert not passes()
    now[0] = 1.0
    assert passes()
    assert not passes()
    now[0] = 10_000.0
    assert [passes() for _ in range(61)] == [True] * 60 + [False]
    now[0] = 20_000.0
    assert passes(1_000), "what costs more than a bucket holds passes where it is full"
    now[0] += 60.0
    assert not passes(), "and is paid for"


def test_many_callers_need_no_more_room_than_the_bound() -> None:
    quotas = Quotas()
    for number in range(BUCKETS_MAX + 10):
        quotas.take("queries", 60, f"user:{number}", "/stock")
    assert len(quotas._buckets) == BUCKETS_MAX


def test_every_answer_has_the_headers_of_browsers(door: GuardedDoor) -> None:
    for answer in (
        door.send("GET", "/stock", "ada", "customer"),
        door.send("GET", "/stock"),
        door.send("GET", "/nothing/at/all/here/is"),
        door.send("GET", "/problems/unauthorized"),
        door.send("GET", "/livez"),
    ):
        for name, value in HEADERS:
            assert answer.headers.get_list(name.decode()) == [value.decode()]
        assert answer.headers["cache-control"] == "private, no-cache"
    written = door.send("POST", "/inventory/tea/receive-stock", "max", "merchant", json={})
    assert written.headers["cache-control"] == "no-store"


def test_a_page_of_a_listed_site_may_ask_and_read(door: GuardedDoor) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Origin": SHOP}
    asked["Access-Control-Request-Headers"] = "authorization, idempotency-key, if-match"

    preflight = door.send("OPTIONS", "/orders/o-1/place-order", headers=asked)
    answer = door.send("GET", "/stock", "ada", "customer", headers={"Origin": SHOP})
    refused = door.send("GET", "/stock", headers={"Origin": SHOP})

    assert preflight.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "Consistency-Token" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    assert problem(refused) == (401, "unauthorized")
    assert refused.headers["access-control-allow-origin"] == SHOP


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{SHOP}.evil.example"])
def test_a_page_of_another_site_may_not(door: GuardedDoor, origin: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Origin": origin}

    preflight = door.send("OPTIONS", "/orders/o-1/place-order", headers=asked)
    answer = door.send("GET", "/stock", "ada", "customer", headers={"Origin": origin})

    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origins", ["*", "shop.example", f"{SHOP}/", "https://a b"])
def test_only_whole_origins_can_be_listed(tmp_path: Path, origins: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="CORS"),
        guarded_door(tmp_path, gateway_cors_origins=origins),
    ):
        pass
