"""A small context and records of a log, for the tests of the read side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tidelog import Command, Context, Event, Id, Row
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.memory import MemoryCodec
from tidelog.wire import EventMetadata, event_headers

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Add(Command):
    counter_id: Id
    by: int


class Added(Event):
    counter_id: Id
    by: int


class Cleared(Event):
    counter_id: Id


class Noted(Event):
    """An event that no projection of these tests folds."""

    counter_id: Id


class Turn(Command):
    other_id: Id


class Turned(Event):
    other_id: Id


class Counter(Row):
    counter_id: str
    total: int


COUNTERS = Context(name="counters", key="counter_id", commands=Add, events=Added | Cleared | Noted)
OTHERS = Context(name="others", key="other_id", commands=Turn, events=Turned)


CODEC = MemoryCodec([Added, Cleared, Noted, Turned])


def record(
    event: Event,
    *,
    offset: int,
    sequence: int,
    version: int,
    context: Context = COUNTERS,
    codec: MessageCodec = CODEC,
) -> StoredRecord:
    """The event as the owner of its partition writes it; one second passes per sequence."""
    subject = getattr(event, context.key)
    time = EPOCH + timedelta(seconds=sequence)
    metadata = EventMetadata(
        message_id=f"0198c0de-0000-7000-8000-{sequence:012d}",
        type=context.full_name(type(event)),
        subject=subject,
        recorded_at=time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        sequence=sequence,
        version=version,
        correlation_id="c",
        causation_id="k",
        command_hash="0" * 64,
        traceparent="",
    )
    value = codec.encode(event)
    headers = list(event_headers(metadata, context.source))
    return StoredRecord(offset, subject.encode(), value, [*headers])
