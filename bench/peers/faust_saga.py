"""R7's peer: order fulfilment as a Faust agent, written as its guide has it.

It hears an event, looks up how far the order is, sends the commands, and writes down how far it is
now: in a table of Faust's own (`BENCH_KEEPS` is `table`: in memory, with a changelog topic) or as a
row of PostgreSQL, committed alone (`rows`). A command has an id of its own, and is JSON without
headers: less work than ours is.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import faust
import psycopg

from bench.peers.avro_decode import saved_decoder
from bench.peers.order_upsert import OPTIONS

PREFIX = os.environ["BENCH_PREFIX"]
KEEPS = os.environ["BENCH_KEEPS"]

app = faust.App(
    os.environ["BENCH_GROUP"],
    broker="kafka://" + os.environ["BENCH_KAFKA"],
    store="memory://",
    datadir=os.environ["BENCH_FOLDER"],
    topic_partitions=int(os.environ["BENCH_PARTITIONS"]),
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    # As short as ours, so that a killed worker is missed as soon.
    broker_session_timeout=6,
    broker_heartbeat_interval=1,
    web_enabled=False,
)
events = app.topic(
    PREFIX + "orders.events", key_type=bytes, value_type=bytes, value_serializer="raw"
)
commands = {
    context: app.topic(
        f"{PREFIX}{context}.commands", key_type=bytes, value_type=bytes, value_serializer="raw"
    )
    for context in ("inventory", "payments", "shipping")
}
decoder = saved_decoder(Path(os.environ["BENCH_SCHEMAS"]))

# What is sent, in the words of the shop: the context, the command, the key.
Sent = tuple[str, str, str]


def react(name: str, order: dict[str, Any], order_id: str) -> list[Sent]:
    """What the event asks for; the order's lines were remembered when it was placed."""
    match name:
        case "OrderPlaced":
            return [("inventory", "ReserveStock", sku) for sku in order["skus"]]
        case "OrderReserved":
            return [("payments", "RequestPayment", order_id)]
        case "OrderPaid":
            return [("shipping", "RequestShipment", order_id)]
        case "OrderConfirmed":
            return [("inventory", "SellStock", sku) for sku in order["skus"]]
    return []


def remember(name: str, order: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """How far the order is after the event."""
    if name == "OrderPlaced":
        skus = [line["sku"] for line in event["lines"]]
        return {"status": name, "skus": skus, "total": event["total"]}
    return {**order, "status": name}


async def send(sent: list[Sent], order_id: str) -> None:
    """Hand the commands to Faust's producer."""
    for context, name, key in sent:
        command = {"id": str(uuid.uuid4()), "command": name, "key": key, "order_id": order_id}
        await commands[context].send(key=key.encode(), value=json.dumps(command).encode())


if KEEPS == "table":
    table = app.Table("orders", default=dict, partitions=int(os.environ["BENCH_PARTITIONS"]))


async def with_table(stream: Any) -> None:
    """The state is in Faust's table."""
    async for value in stream:
        name, event = decoder.name_of(value), decoder.decode(value)
        order_id = event["order_id"]
        order = remember(name, table[order_id], event)
        await send(react(name, order, order_id), order_id)
        table[order_id] = order


async def with_rows(stream: Any) -> None:
    """The state is a row of PostgreSQL."""
    schema = os.environ["BENCH_SCHEMA"]
    read = f'SELECT state FROM "{schema}".fulfilment WHERE order_id = %s'.encode()
    write = (
        f'INSERT INTO "{schema}".fulfilment VALUES (%s, %s::jsonb) '
        "ON CONFLICT (order_id) DO UPDATE SET state = excluded.state"
    ).encode()
    connection = await psycopg.AsyncConnection.connect(
        os.environ["BENCH_DSN"], autocommit=True, prepare_threshold=0, options=OPTIONS
    )
    async for value in stream:
        name, event = decoder.name_of(value), decoder.decode(value)
        order_id = event["order_id"]
        found = await (await connection.execute(read, (order_id,))).fetchone()
        order = remember(name, found[0] if found else {}, event)
        await send(react(name, order, order_id), order_id)
        await connection.execute(write, (order_id, json.dumps(order)))


app.agent(events)({"table": with_table, "rows": with_rows}[KEEPS])

if __name__ == "__main__":
    app.main()
