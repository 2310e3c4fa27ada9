"""The order summary as most programs keep it: one statement per event, sent and committed alone.

Standard library only. The table has the columns of ours that the events give, a count of the events
as its version, and no index beside its key: less to keep than ours has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STATUS = {
    "OrderPlaced": "placed",
    "OrderReserved": "reserved",
    "OrderPaid": "paid",
    "OrderConfirmed": "confirmed",
    "OrderCancellationRequested": "cancelling",
    "OrderCancelled": "cancelled",
}

COLUMNS = (
    "order_id text PRIMARY KEY, status text NOT NULL, customer_id text NOT NULL, "
    "currency text NOT NULL, units bigint NOT NULL, total bigint NOT NULL, cancel_reason text, "
    "version bigint NOT NULL"
)

# As our projector's connection: the log gives again what a crash of PostgreSQL takes back.
OPTIONS = "-c synchronous_commit=off"


class OrderTable:
    """The statements on one table."""

    def __init__(self, schema: str) -> None:
        table = f'"{schema}".orders'
        self.create = (
            f'CREATE SCHEMA IF NOT EXISTS "{schema}"',
            f"CREATE TABLE {table} ({COLUMNS})",
        )
        self._place = (
            f"INSERT INTO {table} VALUES (%s, 'placed', %s, %s, %s, %s, NULL, 1) "
            "ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, "
            "customer_id = excluded.customer_id, currency = excluded.currency, "
            "units = excluded.units, total = excluded.total, version = excluded.version"
        )
        self._move = (
            f"UPDATE {table} SET status = %s, cancel_reason = %s, version = version + 1 "
            "WHERE order_id = %s"
        )

    def statement(self, name: str, event: dict[str, Any]) -> tuple[str, Sequence[Any]]:
        """What the event does to the table."""
        if name != "OrderPlaced":
            return self._move, (STATUS[name], event.get("reason"), event["order_id"])
        return self._place, (
            event["order_id"],
            event["customer_id"],
            event["currency"],
            units_of(event),
            event["total"],
        )


def units_of(event: dict[str, Any]) -> int:
    """The pieces of an order that was placed."""
    return sum(line["quantity"] for line in event["lines"])
