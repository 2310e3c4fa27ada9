"""Given read models in PostgreSQL, when they are listed over HTTP, then page by page, once each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from projectors.daily_sales import DailySales, daily_sales
from projectors.order_summary import OrderSummary, Status, order_summary
from projectors.stock_level import StockLevel, stock_level
from query_service.lists import cursor_of
from tests.fixtures.servers import Database
from tests.integration.query_server import PLACED, QueryServer, problem, query_server

SORTS = ("placed_at", "-placed_at", "total", "-total")
STATUSES: tuple[Status, ...] = ("placed", "confirmed", "cancelled")


@pytest.fixture
def asked(database: Database) -> Iterator[QueryServer]:
    with query_server(database, order_summary, stock_level, daily_sales) as server:
        yield server


def order(number: int) -> OrderSummary:
    """An order; totals and customers repeat, so that the key must decide."""
    return OrderSummary(
        order_id=f"o-{number:03}",
        status=STATUSES[number % 3],
        customer_id=f"c-{number % 4}",
        currency="EUR",
        units=1,
        total=100 * (number * 7 % 10),
    )


def with_orders(asked: QueryServer, numbers: Sequence[int]) -> str:
    """Write these orders, three at a time placed at one moment; the position after them."""
    rows = [(order(number), PLACED + timedelta(seconds=number // 3)) for number in numbers]
    return asked.models["order_summary"].write_all(rows)


def listed(asked: QueryServer, path: str, token: str) -> list[dict[str, Any]]:
    """All items of all pages."""
    return [item for page in asked.pages(path, token) for item in page]


def ids(items: Sequence[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def test_an_order_in_a_list_shows_what_a_list_needs(asked: QueryServer) -> None:
    token = with_orders(asked, [5])

    answer = asked.get("/orders", Consistency_Token=token)

    assert answer.json() == {
        "items": [
            {
                "id": "o-005",
                "version": 1,
                "status": "cancelled",
                "customer_id": "c-1",
                "currency": "EUR",
                "units": 1,
                "total": 500,
                "cancel_reason": None,
                "placed_at": "2026-07-31T12:30:16.123456Z",
                "updated_at": "2026-07-31T12:30:16.123456Z",
                "position": "orders:0:1",
            }
        ],
        "next_cursor": None,
    }
    assert answer.headers["x-as-of"] == "orders:0:1,orders:1:0,orders:2:0,orders:3:0"


def test_an_empty_list_has_no_next_page(asked: QueryServer) -> None:
    answer = asked.get("/orders")

    assert answer.json() == {"items": [], "next_cursor": None}
    assert "link" not in answer.headers


def test_the_latest_orders_come_first_and_fifty_at_a_time(asked: QueryServer) -> None:
    token = with_orders(asked, range(60))

    first, second = asked.pages("/orders", token)

    assert ids(first + second) == [f"o-{number:03}" for number in reversed(range(60))]
    assert (len(first), len(second)) == (50, 10)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("limit", [1, 7, 200])
def test_every_sort_gives_every_order_once_in_its_order(
    asked: QueryServer, sort: str, limit: int
) -> None:
    token = with_orders(asked, range(20))

    found = listed(asked, f"/orders?sort={sort}&limit={limit}", token)

    name = sort.lstrip("-")
    expected = sorted(found, key=lambda item: (item[name], item["id"]), reverse=sort[0] == "-")
    assert found == expected
    assert sorted(ids(found)) == [f"o-{number:03}" for number in range(20)]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_hold_what_was_there_exactly_once_while_orders_are_placed(
    asked: QueryServer, sort: str
) -> None:
    chance, numbers = random.Random(sort), [*range(200)]
    chance.shuffle(numbers)
    there, later = numbers[:60], iter(numbers[60:])
    token = with_orders(asked, there)

    pages = asked.pages(
        f"/orders?sort={sort}&limit=5",
        token,
        between=lambda: with_orders(asked, [next(later), next(later)]),
    )
    found = ids([item for page in pages for item in page])

    assert len(found) == len(set(found))
    assert set(found) >= {f"o-{number:03}" for number in there}
    assert len(found) > len(there), "some were placed ahead of where the reader was"


def test_orders_are_found_by_customer_status_and_time(asked: QueryServer) -> None:
    token = with_orders(asked, range(24))

    def found(query: str) -> list[str]:
        return sorted(ids(listed(asked, f"/orders?limit=3{query}", token)))

    def numbered(*numbers: int) -> list[str]:
        return [f"o-{number:03}" for number in numbers]

    assert found("&customer_id=c-2") == numbered(2, 6, 10, 14, 18, 22)
    assert found("&status=cancelled&customer_id=c-2") == numbered(2, 14)
    assert found("&status=reserved") == []
    assert found("&customer_id=nobody") == []
    moment = quote((PLACED + timedelta(seconds=6)).isoformat())
    # Both ends are open: what was placed at that very moment is in neither.
    assert found(f"&placed_after={moment}") == numbered(21, 22, 23)
    assert found(f"&placed_before={moment}&placed_after=2026-07-31T12:30:20Z") == numbered(
        15, 16, 17
    )
    assert found("&placed_after=2026-07-31T14:30:22.1%2b02:00&sort=total") == numbered(21, 22, 23)
    assert len(found("&placed_after=2026-07-31&placed_before=2026-08-01")) == 24
    assert found("&placed_after=2026-08-01") == []


@pytest.mark.parametrize("sort", SORTS)
def test_filters_hold_on_every_page_of_every_sort(asked: QueryServer, sort: str) -> None:
    token = with_orders(asked, range(40))

    found = listed(asked, f"/orders?sort={sort}&customer_id=c-1&limit=3", token)

    assert sorted(ids(found)) == [f"o-{number:03}" for number in range(1, 40, 4)]


def test_a_list_that_the_caller_has_already_is_not_sent_again(asked: QueryServer) -> None:
    token = with_orders(asked, range(3))
    tag = asked.get("/orders", Consistency_Token=token).headers["etag"]

    again = asked.get("/orders", If_None_Match=tag)
    assert (again.status_code, again.content) == (304, b"")
    token = with_orders(asked, [3])
    assert asked.get("/orders", If_None_Match=tag, Consistency_Token=token).status_code == 200


def test_all_stock_is_listed_in_pages_in_byte_order(asked: QueryServer) -> None:
    skus = [f"{letter}{n}" for letter in ("A", "a", "~", "-") for n in range(5)]
    rows = [(StockLevel(sku=sku, on_hand=3, reserved=1), PLACED) for sku in skus]
    token = asked.models["stock_level"].write_all(rows)

    found = listed(asked, "/stock?limit=3", token)

    assert [item["sku"] for item in found] == sorted(skus)
    assert {item["available"] for item in found} == {2}


def sale(day: date, currency: str, sku: str) -> DailySales:
    return DailySales(
        sales_key=f"{day}~{currency}~{sku}",
        day=day,
        sku=sku,
        currency=currency,
        units_sold=5,
        amount_sold=1750,
        units_returned=1,
        amount_returned=350,
    )


def test_sales_are_listed_by_day_and_found_by_day_and_sku(asked: QueryServer) -> None:
    days = [date(2026, 7, 30) + timedelta(days=n) for n in range(4)]
    rows = [
        (sale(day, currency, sku), PLACED)
        for sku in ("tea", "cup")
        for currency in ("USD", "EUR")
        for day in days
    ]
    token = asked.models["daily_sales"].write_all(rows)

    def found(query: str) -> list[tuple[str, str, str]]:
        items = listed(asked, f"/sales/daily?limit=3{query}", token)
        return [(item["day"], item["currency"], item["sku"]) for item in items]

    everything = sorted(
        (str(day), currency, sku)
        for day in days
        for currency in ("EUR", "USD")
        for sku in ("cup", "tea")
    )
    assert found("") == everything
    assert found("&from=2026-07-31&to=2026-08-01") == everything[4:12]
    assert found("&from=2026-07-31&to=2026-07-31&sku=tea") == [
        ("2026-07-31", "EUR", "tea"),
        ("2026-07-31", "USD", "tea"),
    ]
    assert found("&to=2026-07-30") == everything[:4]
    assert asked.get("/sales/daily?limit=1").json()["items"] == [
        {
            "day": "2026-07-30",
            "sku": "cup",
            "currency": "EUR",
            "units_sold": 5,
            "units_returned": 1,
            "units": 4,
            "amount_sold": 1750,
            "amount_returned": 350,
            "revenue": 1400,
        }
    ]


BAD = {
    "sorts": [
        ("/orders?sort=name;drop", 400),
        ("/orders?sort=customer_id", 400),
        ("/orders?sort=placed_at%20desc,(select%201)", 400),
        ("/orders?sort=--total", 400),
        ("/orders?sort=", 400),
        ("/orders?direction=desc", 400),
        ("/stock?sort=sku", 400),
        ("/stock?sku=tea", 400),
    ],
    "filters": [
        ("/orders?status=unknown", 400),
        ("/orders?status=placed,reserved", 400),
        ("/orders?status=", 400),
        ("/orders?" + "&".join(["status=placed"] * 1_000), 400),
        ("/orders?customer_id=%25", 422),
        ("/orders?customer_id=c_%25%27--", 422),
        ("/orders?customer_id=", 422),
        ("/orders?customer_id=" + "c" * 129, 422),
        ("/orders?customer_id=%00", 400),
        ("/orders?customer_id=%FF", 400),
        ("/orders?total=5", 400),
    ],
    "times": [
        ("/orders?placed_after=9999-99-99", 422),
        ("/orders?placed_after=2026-02-30", 422),
        ("/orders?placed_after=2026-02-28T25:00:00Z", 422),
        ("/orders?placed_after=2026-02-28T23:59:60Z", 422),
        ("/orders?placed_after=0000-01-01T00:00:00Z", 422),
        ("/orders?placed_after=100000-01-01", 422),
        ("/orders?placed_before=0001-01-01T00:00:00%2B14:00", 422),
        ("/orders?placed_before=2026-02-28T12:00:00%2B25:00", 422),
        ("/orders?placed_after=2026-02-28T12:00:00", 422),
        ("/orders?placed_after=2026-02-28T12:00:00+01:00", 400),
        ("/orders?placed_after=yesterday", 400),
        ("/orders?placed_after=", 400),
        ("/orders?placed_after=1753964000", 400),
        ("/orders?placed_after=2026-02-28T12:00Z", 400),
        ("/orders?placed_after=2026-02-28%2012:00:00Z", 400),
        ("/orders?placed_after=2026-08-01&placed_before=2026-07-31", 422),
        ("/sales/daily?from=9999-99-99", 422),
        ("/sales/daily?from=2026-07-31T00:00:00Z", 400),
        ("/sales/daily?to=31.07.2026", 400),
        ("/sales/daily?from=2026-08-01&to=2026-07-31", 422),
        ("/sales/daily?sku=a%2Fb", 422),
        ("/sales/daily?sort=day", 400),
    ],
    "pages": [
        ("/orders?limit=0", 422),
        ("/orders?limit=-1", 422),
        ("/orders?limit=201", 422),
        ("/orders?limit=1000000000", 422),
        ("/orders?limit=1e2", 422),
        ("/orders?limit=%D9%A1", 422),
        ("/orders?limit=", 422),
        ("/orders?limit=1&limit=2", 400),
        ("/orders?offset=1000000000000", 400),
        ("/orders?page=2", 400),
        ("/orders?cursor=", 400),
        ("/orders?cursor=!", 400),
        ("/orders?cursor=AA", 400),
        ("/orders?cursor=" + "A" * 20_000, 400),
        ("/orders?wait_ms=10001", 422),
    ],
}


@pytest.mark.parametrize("what", BAD)
def test_what_a_list_does_not_take_is_refused_and_not_repeated(
    asked: QueryServer, what: str
) -> None:
    for path, status in BAD[what]:
        answer = asked.get(path)

        name = {400: "malformed", 422: "invalid"}[status]
        assert problem(answer) == (status, name), path
        given = path.partition("=")[2]
        assert len(given) < 8 or given not in answer.text


@pytest.mark.parametrize("path", ["/orders?", "/stock?", "/sales/daily?"])
def test_tokens_hold_for_lists_too(asked: QueryServer, path: str) -> None:
    context = "inventory" if path == "/stock?" else "orders"

    ahead = asked.get(f"{path}wait_ms=20", Consistency_Token=f"{context}:2:9")
    assert problem(ahead) == (503, "not-yet-visible")
    assert ahead.headers["retry-after"] == "1"
    assert problem(asked.get(path, Consistency_Token="nowhere:0:1")) == (400, "malformed")
    assert asked.get(path, Consistency_Token="payments:0:9").status_code == 200


def test_a_cursor_that_was_cut_or_changed_is_malformed(asked: QueryServer) -> None:
    token = with_orders(asked, range(5))
    cursor = asked.get("/orders?limit=2", Consistency_Token=token).json()["next_cursor"]

    assert asked.get(f"/orders?limit=3&cursor={cursor}").status_code == 200
    for length in range(1, len(cursor)):
        assert asked.get(f"/orders?cursor={cursor[:length]}").status_code == 400
    for place in range(len(cursor)):
        other = "A" if cursor[place] != "A" else "B"
        changed = cursor[:place] + other + cursor[place + 1 :]
        assert problem(asked.get(f"/orders?cursor={changed}")) == (400, "malformed")


def test_a_cursor_holds_for_its_own_list_sort_and_filters_only(asked: QueryServer) -> None:
    token = with_orders(asked, range(20))
    path = "/orders?sort=total&customer_id=c-1&limit=2"
    cursor = asked.get(path, Consistency_Token=token).json()["next_cursor"]

    assert asked.get(f"{path}&cursor={cursor}").status_code == 200
    for other in (
        "/orders?sort=total&limit=2",
        "/orders?sort=-total&customer_id=c-1&limit=2",
        "/orders?sort=total&customer_id=c-2&limit=2",
        "/orders?sort=total&customer_id=c-1&status=placed&limit=2",
        "/stock?limit=2",
    ):
        assert problem(asked.get(f"{other}&cursor={cursor}")) == (400, "malformed"), other


FORGED: list[tuple[str, Any, int]] = [
    ("placed_at", ["2026-07-31T12:00:00Z", "o-1"], 200),
    ("placed_at", ["0001-01-01T00:00:00+23:59", "o-1"], 200),
    ("placed_at", ["9999-12-31T23:59:59.999999-23:59", "o-1"], 200),
    ("placed_at", ["2026-07-31T12:00:00", "o-1"], 400),
    ("placed_at", [5, "o-1"], 400),
    ("placed_at", ["2026-07-31T12:00:00Z", "a\0b"], 400),
    ("placed_at", ["2026-07-31T12:00:00Z"], 400),
    ("total", [2**63 - 1, "~" * 160], 200),
    ("total", [2**63, "o-1"], 400),
    ("total", [1.5, "o-1"], 400),
    ("total", ["1", "o-1"], 400),
    ("total", {"total": 1}, 400),
    ("total", None, 400),
]


def test_a_cursor_that_was_made_with_our_own_digest_can_do_no_harm(asked: QueryServer) -> None:
    for sort, values, status in FORGED:
        cursor = cursor_of(values, msgspec.json.encode(["/orders", sort, []]))

        answer = asked.get(f"/orders?sort={sort}&cursor={cursor}")

        assert answer.status_code == status, (values, answer.text)
