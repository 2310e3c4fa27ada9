"""What one message costs to encode and to decode: `python -m bench.codec`."""

from __future__ import annotations

import io
import json
import time
import timeit
from collections.abc import Callable
from typing import Annotated, Any

import fastavro
import msgspec

from tidelog.avro import avro_schema
from tidelog.codec import Codec
from tidelog.message import Command, Context, Event, Id, Message, Text
from tidelog.registry import MemoryRegistry

CALLS = 20_000
ROUNDS = 9


class Ask(Command):
    """The smallest command there can be."""

    id: Id


class Captured(Event):
    """Eight fields in about 150 bytes."""

    id: Id
    customer_id: Id
    currency: Annotated[str, msgspec.Meta(min_length=3, max_length=3)]
    amount: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    late: bool
    reason: Text
    return_id: str | None
    captured_on: Annotated[str, msgspec.Meta(min_length=10, max_length=10)]


SHOP = Context(name="bench", key="id", commands=Ask, events=Captured)
CAPTURED = Captured(
    id="0190a4f1-7c11-7cc3-9d1a-0123456789ab",
    customer_id="customer-4711",
    currency="EUR",
    amount=12_345_678,
    late=False,
    reason="the customer asked for it, twice, on the telephone",
    return_id="return-0190a4f1-7c11",
    captured_on="2026-11-21",
)


def main() -> None:
    """Print microseconds per call, ours beside bare fastavro without any check."""
    codec = Codec([SHOP], MemoryRegistry())
    codec.prepare()
    value = codec.encode(CAPTURED)
    print(f"{type(CAPTURED).__name__}: {len(value)} bytes")
    report("encode", lambda: codec.encode(CAPTURED))
    report("decode", lambda: codec.decode(value))
    peer(CAPTURED, value)


def peer(message: Message, value: bytes) -> None:
    """The same with fastavro and nothing checked: dict in, dict out."""
    schema: Any = fastavro.parse_schema(
        json.loads(json.dumps(avro_schema(type(message), SHOP.full_name(type(message)))))
    )
    record = msgspec.to_builtins(message)

    def write() -> bytes:
        buffer = io.BytesIO(value[:5])
        fastavro.schemaless_writer(buffer, schema, record)
        return buffer.getvalue()

    report("fastavro write, unchecked", write)
    report(
        "fastavro read, unchecked",
        lambda: fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None),
    )
    report("msgspec check alone", lambda: msgspec.convert(record, type(message)))


def report(name: str, call: Callable[[], object]) -> None:
    """The best of some rounds; CPU time, for others use the machine too."""
    best = min(timeit.repeat(call, timer=time.thread_time, number=CALLS, repeat=ROUNDS))
    print(f"{name:28} {best / CALLS * 1e6:6.2f} µs")


if __name__ == "__main__":
    main()
