"""Consumed messages as the engine reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import methodcaller
from typing import Any

from confluent_kafka import Consumer

from tidelog.engine.ports import StoredRecord
from tidelog.kafka.headers import headers_of

_error_of = methodcaller("error")
# As StoredRecord(…), which would go through a function of its own.
_new: Callable[[type[StoredRecord], tuple[Any, ...]], StoredRecord] = tuple.__new__


def stored_record(message: Any) -> StoredRecord:
    """A message that is no error."""
    return StoredRecord(message.offset(), message.key(), message.value(), headers_of(message))


def stored_records(messages: list[Any]) -> list[StoredRecord]:
    """Messages, none of which is an error."""
    try:
        return [
            _new(StoredRecord, (m.offset(), m.key(), m.value(), m.headers() or []))
            for m in messages
        ]
    except (UnicodeDecodeError, SystemError):  # names of headers that are no text
        return [stored_record(message) for message in messages]


def come(consumer: Consumer, records_max: int, wait_s: float) -> list[Any]:
    """Wait for a message, then take all that have come already, up to the bound.

    `consume` alone would wait until so many have come, at the end of a log above all.
    """
    first: Any = consumer.poll(wait_s)
    return [] if first is None else [first, *consumer.consume(records_max - 1, 0)]


def by_place(messages: Iterable[Any]) -> Iterator[tuple[tuple[str, int], list[Any]]]:
    """The messages in groups of one topic and partition, in their order."""
    for place, found in groupby(messages, _place_of):
        yield place, list(found)


def any_error(messages: Iterable[Any]) -> bool:
    """Whether one of the messages tells of an error, and is no record."""
    return any(map(_error_of, messages))


def _place_of(message: Any) -> tuple[str, int]:
    return message.topic(), message.partition()
