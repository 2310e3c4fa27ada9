"""What was sold of each SKU on each day, and what of that was taken back.

The day is the one on which the money was taken (`paid_on`); a cancellation or a return is taken
off the day of its sale. Orders of many partitions feed one row, so every event here only adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import assert_never

from schemas.orders import ORDERS, OrderCancelled, OrderConfirmed, OrderReturned
from tidelog import Projection, Row, replace


class DailySales(Row):
    """One SKU on one day in one currency. Amounts are in minor units, at the prices paid.

    The key is `2026-07-31~EUR~tea`: day and currency are of fixed width, so no two rows share it.
    """

    sales_key: str
    day: date
    sku: str
    currency: str
    units_sold: int = 0
    amount_sold: int = 0
    units_returned: int = 0
    amount_returned: int = 0


SaleEvent = OrderConfirmed | OrderCancelled | OrderReturned


def initial(key: str) -> DailySales:
    """The SKU on a day on which nothing of it was sold yet."""
    day, currency, sku = key.split("~", 2)
    return DailySales(sales_key=key, day=date.fromisoformat(day), sku=sku, currency=currency)


def keys(event: SaleEvent) -> Sequence[str]:
    """The row of each SKU of the order; none where there was no sale to take back."""
    if isinstance(event, OrderCancelled) and not event.confirmed:
        return ()
    return sorted({f"{event.paid_on}~{event.currency}~{line.sku}" for line in event.lines})


def evolve(row: DailySales | None, event: SaleEvent) -> DailySales:
    """The row's figures with those of the order's lines of its SKU."""
    assert row is not None, "`initial` gives the first row"
    lines = [line for line in event.lines if line.sku == row.sku]
    units = sum(line.quantity for line in lines)
    amount = sum(line.quantity * line.unit_price for line in lines)
    match event:
        case OrderConfirmed():
            return replace(
                row, units_sold=row.units_sold + units, amount_sold=row.amount_sold + amount
            )
        case OrderCancelled() | OrderReturned():
            return replace(
                row,
                units_returned=row.units_returned + units,
                amount_returned=row.amount_returned + amount,
            )
    assert_never(event)


daily_sales = Projection(
    name="daily_sales",
    version=1,
    contexts=[ORDERS],
    row=DailySales,
    key="sales_key",
    evolve=evolve,
    keys=keys,
    initial=initial,
    indexes=[["day", "sales_key"], ["sku", "day", "sales_key"]],
)
