"""A Faust worker on order events: `BENCH_WRITES` is `nothing` (a trivial agent) or `upsert`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import faust
import psycopg

from bench.peers.avro_decode import saved_decoder
from bench.peers.order_upsert import OPTIONS, OrderTable
from bench.progress import Progress

app = faust.App(
    os.environ["BENCH_GROUP"],
    broker="kafka://" + os.environ["BENCH_KAFKA"],
    store="memory://",
    datadir=os.environ["BENCH_FOLDER"],
    topic_partitions=int(os.environ["BENCH_PARTITIONS"]),
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
events = app.topic(
    os.environ["BENCH_TOPIC"], key_type=bytes, value_type=bytes, value_serializer="raw"
)
progress = Progress(Path(os.environ["BENCH_PROGRESS"]))


async def count(stream: Any) -> None:
    """The least that an agent can do."""
    async for _value in stream:
        progress.add(1)


async def upsert(stream: Any) -> None:
    """Decode, and one committed statement for each event."""
    decoder = saved_decoder(Path(os.environ["BENCH_SCHEMAS"]))
    table = OrderTable(os.environ["BENCH_SCHEMA"])
    connection = await psycopg.AsyncConnection.connect(
        os.environ["BENCH_DSN"], autocommit=True, prepare_threshold=0, options=OPTIONS
    )
    async for value in stream:
        text, values = table.statement(decoder.name_of(value), decoder.decode(value))
        await connection.execute(text.encode(), values)
        progress.add(1)


app.agent(events)({"nothing": count, "upsert": upsert}[os.environ["BENCH_WRITES"]])

if __name__ == "__main__":
    app.main()
