"""A Quix Streams application on order events, in an environment of its own.

`BENCH_WRITES` is `nothing` (consume and decode) or `sink`: a stateful fold of each order, and Quix'
own PostgreSQL sink, which upserts the rows at each checkpoint.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.peers.avro_decode import saved_decoder
from bench.peers.order_upsert import OPTIONS, STATUS, units_of
from bench.progress import Progress

CHECKPOINT_EVENTS = 10_000

decoder = saved_decoder(Path(os.environ["BENCH_SCHEMAS"]))
progress = Progress(Path(os.environ["BENCH_PROGRESS"]))


def main() -> None:
    """Process until a signal."""
    quix: Any = import_module("quixstreams")  # it is in that environment only
    app = quix.Application(
        broker_address=os.environ["BENCH_KAFKA"],
        consumer_group=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        commit_every=CHECKPOINT_EVENTS,
        consumer_extra_config={"isolation.level": "read_committed"},
        state_dir=os.environ["BENCH_FOLDER"],
        use_changelog_topics=False,
        auto_create_topics=False,
        loglevel="WARNING",
    )
    topic = app.topic(os.environ["BENCH_TOPIC"], value_deserializer="bytes", key_deserializer="str")
    stream = app.dataframe(topic)
    if os.environ["BENCH_WRITES"] == "nothing":
        stream.update(decoded)
    else:
        stream.apply(folded, stateful=True).sink(_sink())
    app.run()


def decoded(value: bytes) -> None:
    """Decode and forget."""
    decoder.decode(value)
    progress.add(1)


def folded(value: bytes, state: Any) -> dict[str, Any]:
    """The order after the event; the sink takes no nulls, so an empty reason is ''."""
    event, name = decoder.decode(value), decoder.name_of(value)
    if name == "OrderPlaced":
        kept = {field: event[field] for field in ("order_id", "customer_id", "currency", "total")}
        row = {**kept, "units": units_of(event), "cancel_reason": "", "version": 0}
    else:
        row = {**state.get("row"), "cancel_reason": event.get("reason", "")}
    row = {**row, "status": STATUS[name], "version": row["version"] + 1}
    state.set("row", row)
    return row


def _sink() -> Any:
    module: Any = import_module("quixstreams.sinks.community.postgresql")
    dsn = urlsplit(os.environ["BENCH_DSN"])

    def write(self: Any, batch: Any) -> None:
        module.PostgreSQLSink.write(self, batch)
        progress.add(batch.size)

    counting = type("CountingSink", (module.PostgreSQLSink,), {"write": write})
    return counting(
        host=dsn.hostname,
        port=dsn.port,
        dbname=dsn.path.lstrip("/"),
        user=dsn.username,
        password=dsn.password or "none",
        # Its look-up of the primary key mixes up tables of one name in several schemas.
        table_name="orders_by_quix",
        schema_name=os.environ["BENCH_SCHEMA"],
        primary_key_columns="order_id",
        upsert_on_primary_key=True,
        include_metadata=False,
        options=OPTIONS,
    )


if __name__ == "__main__":
    main()
