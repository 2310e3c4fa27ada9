"""What the queries take and show, held against the read models that they show."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import get_args

import pytest
from sqlalchemy import ColumnElement

from projectors import PROJECTIONS
from projectors.order_detail import Status
from query_service.customers import SUMMARY as CUSTOMER
from query_service.lists import Listing
from query_service.orders import DETAIL, ORDERS, STATUSES, SUMMARY
from query_service.parameters import day, instant
from query_service.payments import PAYMENT
from query_service.returns import RETURN
from query_service.rows import Shown
from query_service.sales import DAY, SALES
from query_service.shipments import SHIPMENT
from query_service.stock import LEVEL, STOCK
from tidelog import Projection
from tidelog.errors import Invalid, Malformed

BY_NAME = {each.name: each for each in PROJECTIONS if isinstance(each, Projection)}
KEPT = {"version", "position", "created_at", "updated_at"}


@pytest.mark.parametrize(
    "shown", [DETAIL, SUMMARY, LEVEL, PAYMENT, SHIPMENT, RETURN, CUSTOMER, DAY]
)
def test_a_query_shows_columns_that_its_read_model_has(shown: Shown) -> None:
    projection = BY_NAME[shown.projection]
    columns = {*projection.row.__struct_fields__, *KEPT}

    assert shown.key == projection.key
    assert {field for field in shown.fields.values() if isinstance(field, str)} <= columns
    for field in shown.fields.values():
        if isinstance(field, ColumnElement):
            assert {str(part) for part in field.get_children()} <= columns


@pytest.mark.parametrize("listing", [ORDERS, STOCK, SALES])
def test_every_sort_has_an_index_and_every_filter_a_column(listing: Listing) -> None:
    projection = BY_NAME[listing.shown.projection]
    ordered = [[projection.key], *map(list, projection.indexes)]

    for sort in listing.sorts.values():
        assert [*sort.columns] in ordered
        assert [*sort.columns][-1] == projection.key, "the key decides among equals"
    for filter_ in listing.filters:
        assert filter_.column in {*projection.row.__struct_fields__, *KEPT}


def test_orders_are_found_by_every_status_that_they_have() -> None:
    assert get_args(Status) == STATUSES


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-07-31", datetime(2026, 7, 31, tzinfo=UTC)),
        ("2026-07-31T12:30:15Z", datetime(2026, 7, 31, 12, 30, 15, tzinfo=UTC)),
        ("2026-07-31t12:30:15z", datetime(2026, 7, 31, 12, 30, 15, tzinfo=UTC)),
        ("2026-07-31T12:30:15.5Z", datetime(2026, 7, 31, 12, 30, 15, 500_000, tzinfo=UTC)),
        ("2026-07-31T12:30:15.1234567Z", datetime(2026, 7, 31, 12, 30, 15, 123_456, tzinfo=UTC)),
        ("2026-07-31T00:30:00+01:00", datetime(2026, 7, 30, 23, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read_as_rfc_3339_has_it(text: str, moment: datetime) -> None:
    assert instant("at", "").read(text) == moment


@pytest.mark.parametrize("text", ["9999-99-99", "2026-07-31T12:30:15", "10000-01-01T00:00:00Z"])
def test_a_moment_that_cannot_be_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        instant("at", "").read(text)


@pytest.mark.parametrize("text", ["", "now", "2026-7-1", "2026-07-31T12:30Z", "٢٠٢٦-07-31"])
def test_a_moment_of_another_form_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        instant("at", "").read(text)


def test_a_day_is_a_day_and_no_moment() -> None:
    assert day("on", "").read("2026-07-31") == date(2026, 7, 31)
    with pytest.raises(Malformed):
        day("on", "").read("2026-07-31T00:00:00Z")
