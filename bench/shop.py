"""The command of all measures: a realistic place-order with two lines and an address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from command_service.orders import orders
from schemas.orders import ORDERS, PlaceOrder
from schemas.values import Address, OrderLine
from tidelog.canonical import command_hash, command_id
from tidelog.engine.batch import Batch, Decider, Request
from tidelog.engine.command import Envelope
from tidelog.engine.partition import PartitionState
from tidelog.engine.ports import Limits, MessageCodec, OutgoingRecord, Tools
from tidelog.ids import utc_now, uuid7
from tidelog.memory.state_store import MemoryStateStore

CONTEXT = ORDERS.name
FULL_NAME = ORDERS.full_name(PlaceOrder)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def order_ids() -> Iterator[str]:
    """Fresh ids, unlike those of any other run."""
    start = uuid7()[:13]
    number = 0
    while True:
        number += 1
        yield f"{start}-{number:08x}"


def place_order(order_id: str) -> PlaceOrder:
    """The command."""
    return PlaceOrder(
        order_id=order_id,
        customer_id="customer-4711",
        currency="EUR",
        lines=(
            OrderLine(sku="tea-assam-250g", quantity=2, unit_price=1_295),
            OrderLine(sku="teapot-stoneware-1l", quantity=1, unit_price=4_900),
        ),
        ship_to=Address(
            name="Ada Lovelace",
            street="12 St James's Square",
            city="London",
            postal_code="SW1Y 4JH",
            country="GB",
        ),
    )


def envelope(order_id: str) -> Envelope:
    """The command with all that travels beside it, as a door hands it in."""
    command = place_order(order_id)
    return Envelope(
        command_id=command_id("local", CONTEXT, order_id, order_id),
        command_hash=command_hash(FULL_NAME, command),
        key=order_id,
        command=command,
        correlation_id=order_id,
        traceparent=TRACEPARENT,
    )


def body() -> bytes:
    """The command as a body of HTTP: every field but the key."""
    fields: dict[str, Any] = msgspec.to_builtins(place_order("any"))
    del fields["order_id"]
    return msgspec.json.encode(fields)


def records(codec: MessageCodec, keys: Sequence[str]) -> list[OutgoingRecord]:
    """The very records that the engine would append for placing these orders."""
    tools = Tools(codec=codec, new_id=uuid7, now=utc_now)
    limits = Limits()
    state = PartitionState(orders, MemoryStateStore(), limits)
    decider = Decider(orders, state, tools, limits)
    batch = Batch(1)
    for key in keys:
        decider.decide(Request(envelope=envelope(key), reply=_nobody), batch, None)
    assert len(batch.records) == len(keys), "placing a new order gives one event"
    return batch.records


def _nobody(_outcome: object) -> None:
    """Nobody waits for this answer."""
