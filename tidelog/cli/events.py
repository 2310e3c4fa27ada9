"""`tidelog events CONTEXT`: the records of a context's log, as JSON lines."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Annotated, Any

import typer
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from tidelog.cli.decoding import ValueDecoder
from tidelog.cli.kafka import reach
from tidelog.cli.output import Dev, Json, show_json
from tidelog.cli.system import find_system
from tidelog.errors import Unavailable, Unknown
from tidelog.kafka.security import connection

POLL_S = 1.0
BATCH_MAX = 500


def events(
    context: Annotated[str, typer.Argument(help="As orders, inventory, payments.")],
    dev: Dev = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on at the end.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: Json = False,
) -> None:
    """Print committed events, one JSON object per line (with --json: one object for all)."""
    system = find_system(dev)
    topic = f"{system.topic_prefix}{context}.events"
    records = _first(_records(system.kafka_bootstrap_servers, topic, follow), limit)
    with closing(ValueDecoder(system.registry_url)) as decoder:
        if as_json and not follow:
            show_json({"items": [described(record, decoder) for record in records]})
            return
        for record in records:
            line = json.dumps(described(record, decoder), ensure_ascii=False, default=str)
            print(line, flush=True)


def described(record: Message, decoder: ValueDecoder) -> dict[str, Any]:
    """One record as it is shown."""
    headers: Any = record.headers() or ()
    return {
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset(),
        "key": _text(record.key()),
        "headers": {name: _text(value) for name, value in headers},
        **decoder.described(_bytes(record.value())),
    }


def _records(bootstrap_servers: str, topic: str, follow: bool) -> Generator[Message, None, None]:
    """The committed records of the topic; without `follow` up to the present end."""
    found = reach(bootstrap_servers)[1].topics.get(topic)
    if found is None:
        raise Unknown(f"there is no topic {topic}; `tidelog topics` lists them")
    places = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in found.partitions]
    with closing(_consumer(bootstrap_servers)) as consumer:
        consumer.assign(places)
        open_partitions = set(found.partitions)
        while open_partitions or follow:
            for record in consumer.consume(BATCH_MAX, timeout=POLL_S):
                if _is_end(record):
                    open_partitions.discard(record.partition() or 0)
                else:
                    yield record


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            **connection(bootstrap_servers),
            "client.id": "tidelog-events",
            "log_level": 0,
            # Partitions are assigned by hand and nothing is committed: the group is a formality.
            "group.id": f"tidelog-events-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )


def _is_end(record: Message) -> bool:
    error = record.error()
    if error is None:
        return False
    if error.code() != KafkaError._PARTITION_EOF:
        raise Unavailable(f"reading {record.topic()}: {error.str()}")
    return True


def _first(records: Generator[Message, None, None], limit: int | None) -> Iterator[Message]:
    with closing(records):
        for count, record in enumerate(records, start=1):
            yield record
            if count == limit:
                return


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _text(value: bytes | str | None) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value
