"""Messages to bytes and back: Confluent's wire format (0x00, schema id, Avro), by fastavro.

Nothing is coerced in either direction: a message is checked against its type before it is written
and after it is read. Bytes are read with the schema that wrote them, which must be a registered one,
and resolved to today's type. What is wrong with bytes or a message raises CodecError, which names
the type and the field and never the content; a registry that cannot be asked raises Unavailable.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import fastavro
import msgspec
from fastavro.schema import to_parsing_canonical_form

from tidelog.avro import Schema, avro_schema
from tidelog.errors import CodecError
from tidelog.message import Context, Message
from tidelog.registry.lints import check_schema
from tidelog.registry.port import SchemaRegistry
from tidelog.wire import commands_topic, events_topic

VALUE_BYTES_MAX = 1_000_000
_PREFIX_BYTES = 5

# fastavro writes and reads these natively; everything else travels as plain values.
_NATIVE = (bytes, datetime, date, time, UUID, Decimal)


class _Writer(NamedTuple):
    prefix: bytes
    schema: Schema
    message: type[Message]


class _Reader(NamedTuple):
    message: type[Message]
    written: Schema
    wanted: Schema | None  # None where the message is written with today's schema
    exact: bool  # whether the bytes must be those that we would write


class Codec:
    """The codec of a set of contexts. Thread-safe once prepared."""

    def __init__(
        self, contexts: Sequence[Context], registry: SchemaRegistry, topic_prefix: str = ""
    ) -> None:
        self._contexts = tuple(contexts)
        self._registry = registry
        self._topic_prefix = topic_prefix
        self._writers: dict[type[Message], _Writer] = {}
        self._readers: dict[int, _Reader | str] = {}
        self._types = {
            context.full_name(message): (message, context)
            for context in contexts
            for message in (*context.event_types, *context.command_types)
        }
        self._names = {message: name for name, (message, _) in self._types.items()}

    def prepare(self) -> None:
        """Register every message's schema, or find it registered; remember the ids."""
        for name, (message, _) in self._types.items():
            schema = avro_schema(message, name)
            text = json.dumps(schema, separators=(",", ":"))
            schema_id = self._registry.register(self.subject_of(message), text)
            prefix = b"\x00" + schema_id.to_bytes(4, "big")
            self._writers[message] = _Writer(prefix, fastavro.parse_schema(schema), message)

    def subject_of(self, message: type[Message]) -> str:
        """The subject of a message type: `<topic>-<full name>` (TopicRecordName)."""
        name = self._names[message]
        context = self._types[name][1]
        is_event = message in context.event_types
        topic = (events_topic if is_event else commands_topic)(context.name, self._topic_prefix)
        return f"{topic}-{name}"

    def full_name_of(self, message: type[Message]) -> str:
        """The full name of a message type: `tidelog.orders.OrderPlaced`."""
        return self._names[message]

    def encode(self, message: Message) -> bytes:
        """The stored form of a message."""
        writer = self._writers.get(type(message))
        if writer is None:
            raise CodecError(f"{type(message).__name__} is no message of these contexts")
        try:
            data = msgspec.to_builtins(message, builtin_types=_NATIVE)
            msgspec.convert(data, writer.message)
            buffer = io.BytesIO()
            buffer.write(writer.prefix)
            fastavro.schemaless_writer(buffer, writer.schema, data)
        except (msgspec.ValidationError, ValueError, TypeError, OverflowError) as error:
            raise CodecError(f"{type(message).__name__} does not fit its type: {error}") from None
        return buffer.getvalue()

    def decode(self, value: bytes) -> Message:
        """The message in a stored value."""
        return self._decode(value)[1]

    def decode_named(self, value: bytes) -> tuple[str, Message]:
        """The full name of the message in a stored value, and the message."""
        reader, message = self._decode(value)
        return self._names[reader.message], message

    def _decode(self, value: bytes) -> tuple[_Reader, Message]:
        if not _PREFIX_BYTES < len(value) <= VALUE_BYTES_MAX or value[0] != 0:
            raise CodecError("the value is not in the wire format: 0x00, schema id, Avro")
        reader = self._reader(int.from_bytes(value[1:_PREFIX_BYTES], "big"))
        body = value[_PREFIX_BYTES:]
        try:
            return reader, msgspec.convert(_read_whole(reader, body), reader.message)
        except CodecError:
            raise
        except msgspec.ValidationError as error:
            raise CodecError(f"{reader.message.__name__}: {_without_values(error)}") from None
        except Exception as error:  # fastavro raises what its parts raise: EOFError, IndexError, …
            fault = type(error).__name__
            raise CodecError(f"{reader.message.__name__} cannot be read: {fault}") from None

    def _reader(self, schema_id: int) -> _Reader:
        reader = self._readers.get(schema_id)
        if reader is None:
            reader = self._readers[schema_id] = self._learn(schema_id)
        if isinstance(reader, str):
            raise CodecError(reader)
        return reader

    def _learn(self, schema_id: int) -> _Reader | str:
        """How values of a schema id are read; text says why they never are.

        An id that the registry does not know raises and is asked for again: it may come to be.
        """
        schema: Any = self._registry.schema(schema_id)
        check_schema(schema)
        parsed: Any = fastavro.parse_schema(schema)
        name = parsed.get("name") if isinstance(parsed, dict) else None
        if name not in self._types:
            return f"schema {schema_id} is of no message of these contexts"
        message = self._types[name][0]
        today = fastavro.parse_schema(avro_schema(message, name))
        same = to_parsing_canonical_form(parsed) == to_parsing_canonical_form(today)
        return _Reader(message, parsed, None if same else today, _has_indexes(parsed))


def _read_whole(reader: _Reader, body: bytes) -> Any:
    buffer = io.BytesIO(body)
    data = fastavro.schemaless_reader(buffer, reader.written, None)
    if buffer.tell() != len(body):
        raise CodecError(f"{reader.message.__name__}: bytes are left over behind the record")
    if reader.exact:
        # fastavro takes a negative index of a union or an enum for another branch (version
        # 1.13.1); written again, such bytes come out differently.
        again = io.BytesIO()
        fastavro.schemaless_writer(again, reader.written, data)
        if again.getvalue() != body:
            raise CodecError(f"{reader.message.__name__}: the bytes are not canonical Avro")
    if reader.wanted is None:
        return data
    return fastavro.schemaless_reader(io.BytesIO(body), reader.written, reader.wanted)


def _has_indexes(schema: Schema) -> bool:
    """Whether a schema has a union or an enum anywhere."""
    if isinstance(schema, list):
        return True
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "enum":
        return True
    inner = [field["type"] for field in schema.get("fields", ())]
    inner += [schema[part] for part in ("items", "values", "type") if part in schema]
    return any(_has_indexes(part) for part in inner)


def _without_values(error: msgspec.ValidationError) -> str:
    """What is wrong and where; msgspec's messages hold types and bounds, no content but enums."""
    text = str(error)
    return "Invalid enum value" + text[text.rfind(" - at") :] if "enum value" in text else text
