"""Messages to bytes and back, in Confluent's wire format: 0x00, schema id, Avro.

Nothing is coerced in either direction. A message is checked against its type before it is written
and after it is read; bytes are read with the schema that wrote them, which must be a registered
one of ours, and resolved to today's type. What is wrong with bytes or with a message is a
CodecError that names the type and the field, never the content. A registry that cannot be asked is
Unavailable: then nothing is known about the bytes, and they may be read again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import fastavro
import msgspec

from tidelog.avro import KEPT, Schema, avro_schema
from tidelog.avro_reader import Read, message_reader_of, reader_of, whole
from tidelog.avro_writer import Write, writer_of
from tidelog.errors import CodecError, DefinitionError
from tidelog.message import Context, Event, Message
from tidelog.registry.canonical import canonical
from tidelog.registry.lints import checked
from tidelog.registry.model import (
    ArrayOf,
    Enumeration,
    Fixed,
    MapOf,
    Node,
    Primitive,
    Record,
    Union,
)
from tidelog.registry.port import SchemaRegistry
from tidelog.wire import commands_topic, events_topic

VALUE_BYTES_MAX: Final = 1_000_000
SCHEMAS_MAX: Final = 10_000
"""How many schema ids are remembered; beyond that all are forgotten and asked for again."""

_PREFIX_BYTES: Final = 5


class _Home(NamedTuple):
    """Where a message type belongs, and its subject."""

    full_name: str
    context: Context
    subject: str


class _Writer(NamedTuple):
    prefix: bytes
    write: Write


class _Reader(NamedTuple):
    full_name: str
    message: type[Message]
    read: Callable[[bytes, int], Any]
    resolve: Callable[[bytes], Any] | None
    """Reads again into today's schema; None where today's schema wrote the bytes."""
    build: Callable[[Any], Any] | None
    """Makes the message from the record; None where what was read is the message."""


class Codec:
    """The codec of some contexts. Threads may share it once it is prepared."""

    def __init__(
        self, contexts: Sequence[Context], registry: SchemaRegistry, topic_prefix: str = ""
    ) -> None:
        self._registry = registry
        self._homes = _homes(contexts, topic_prefix)
        self._types = {home.full_name: message for message, home in self._homes.items()}
        self._schemas = {
            message: avro_schema(message, home.full_name) for message, home in self._homes.items()
        }
        self._writers: dict[type[Message], _Writer] = {}
        self._readers: dict[int, _Reader | str] = {}
        # By prefix, where what is read is the message itself: nearly every value of a log.
        self._direct: dict[bytes, Read] = {}

    def prepare(self) -> None:
        """Register every message's schema, or find it registered; what encodes needs this once."""
        for message, home in self._homes.items():
            schema = self._schemas[message]
            text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
            schema_id = self._registry.register(home.subject, text)
            self._writers[message] = _Writer(_prefix(schema_id), writer_of(checked(schema)))

    def full_name_of(self, message: type[Message]) -> str:
        """`tidelog.orders.OrderPlaced`, the Avro name and the `ce_type`."""
        return self._home(message).full_name

    def context_of(self, message: type[Message]) -> Context:
        """The context that the message type belongs to."""
        return self._home(message).context

    def subject_of(self, message: type[Message]) -> str:
        """`orders.events-tidelog.orders.OrderPlaced`, where the registry keeps its schemas."""
        return self._home(message).subject

    def encode(self, message: Message) -> bytes:
        """The stored form; CodecError where a value does not fit its type exactly."""
        kind = type(message)
        writer = self._writers.get(kind)
        if writer is None:
            self._refuse_unprepared(kind)
        pieces = [writer.prefix]
        try:
            record = msgspec.to_builtins(message, builtin_types=KEPT)
            checked_message = msgspec.convert(record, kind, builtin_types=KEPT)
        # Checks of a message's own (`__post_init__`) may raise anything.
        except Exception as error:
            raise CodecError(f"{kind.__name__}: {_fault(error)}") from None
        if checked_message != message:
            raise CodecError(f"{_changed(message, checked_message)} is not of its type")
        writer.write(record, pieces.append)
        value = b"".join(pieces)
        if len(value) > VALUE_BYTES_MAX:
            raise CodecError(f"{kind.__name__} takes more than {VALUE_BYTES_MAX} bytes")
        return value

    def decode(self, value: bytes | memoryview) -> Message:
        """The message in a stored value; CodecError where the bytes are not exactly one of ours."""
        if not isinstance(value, bytes):
            value = bytes(value)
        read = self._direct.get(value[:_PREFIX_BYTES])
        if read is not None and len(value) <= VALUE_BYTES_MAX:
            try:
                message, end = read(value, _PREFIX_BYTES)
            except Exception:
                end = -1  # what is wrong is found and named below
            if end == len(value):
                found: Message = message
                return found
        return self.decode_named(value)[1]

    def decode_named(self, value: bytes | memoryview) -> tuple[str, Message]:
        """The full name of the message in a stored value, and the message."""
        if not isinstance(value, bytes):
            value = bytes(value)
        if not _PREFIX_BYTES <= len(value) <= VALUE_BYTES_MAX or value[0] != 0:
            raise CodecError("the value is not in the wire format: 0x00, schema id, Avro")
        reader = self._readers.get(int.from_bytes(value[1:_PREFIX_BYTES], "big"))
        if not isinstance(reader, _Reader):
            reader = self._learned(value)
        try:
            record = reader.read(value, _PREFIX_BYTES)
            if reader.resolve is not None:
                record = reader.resolve(value[_PREFIX_BYTES:])
            return reader.full_name, record if reader.build is None else reader.build(record)
        except CodecError as error:
            raise CodecError(f"{reader.message.__name__}: {error}") from None
        # fastavro's resolution and a message's own checks may raise anything.
        except Exception as error:
            raise CodecError(f"{reader.message.__name__}: {_fault(error)}") from None

    def _home(self, message: type[Message]) -> _Home:
        home = self._homes.get(message)
        if home is None:
            raise CodecError(f"{message.__name__} is no message of these contexts")
        return home

    def _refuse_unprepared(self, message: type[Message]) -> NoReturn:
        name = self._home(message).full_name
        raise CodecError(f"{name} has no schema id yet: call prepare() before encoding")

    def _learned(self, value: bytes) -> _Reader:
        """The reader of an id met for the first time, or one whose schema is never read.

        A schema never changes, so a refusal is remembered; an id that the registry does not know
        raises and is asked for again, because it may be registered yet.
        """
        schema_id = int.from_bytes(value[1:_PREFIX_BYTES], "big")
        reader = self._readers.get(schema_id)
        if reader is None:
            schema = self._registry.schema(schema_id)
            if len(self._readers) >= SCHEMAS_MAX:
                self._readers.clear()
                self._direct.clear()
            reader = self._readers[schema_id] = self._judged(schema_id, schema)
        if isinstance(reader, str):
            raise CodecError(reader)
        return reader

    def _judged(self, schema_id: int, schema: Schema) -> _Reader | str:
        """How values of the schema are read, or the reason why they never are."""
        try:
            node = checked(schema)
        except CodecError as error:
            return f"schema {schema_id} is not to be trusted: {error}"
        message = self._types.get(node.name) if isinstance(node, Record) else None
        if message is None or not isinstance(node, Record):
            return f"schema {schema_id} is of no message of these contexts"
        today = self._schemas[message]
        resolve = None if _shape(node) == _shape(checked(today)) else _resolver(node, today)
        if resolve is None and issubclass(message, Event):
            read = message_reader_of(node, message)
            if read is not None:
                self._direct[_prefix(schema_id)] = read
                return _Reader(node.name, message, whole(read), None, None)
        return _Reader(node.name, message, reader_of(node), resolve, _checking(message))


def _prefix(schema_id: int) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big")


def _checking(message: type[Message]) -> Callable[[Any], Any]:
    """Makes the message from a record, and refuses what does not fit its type exactly."""

    def build_checked(record: Any) -> Any:
        return msgspec.convert(record, message, builtin_types=KEPT)

    return build_checked


def _homes(contexts: Iterable[Context], topic_prefix: str) -> dict[type[Message], _Home]:
    homes: dict[type[Message], _Home] = {}
    for context in contexts:
        events = events_topic(context.name, topic_prefix)
        commands = commands_topic(context.name, topic_prefix)
        messages: list[tuple[str, type[Message]]] = [
            *((events, event) for event in context.event_types),
            *((commands, command) for command in context.command_types),
        ]
        for topic, message in messages:
            if message in homes:
                raise DefinitionError(f"{message.__name__} belongs to two contexts")
            name = context.full_name(message)
            homes[message] = _Home(name, context, f"{topic}-{name}")
    return homes


def _changed(message: Message, read_back: Message) -> str:
    """The first field that does not come back as it was given (a list for a tuple, a NaN)."""
    for name in message.__struct_fields__:
        if getattr(message, name) != getattr(read_back, name):
            return f"{type(message).__name__}.{name}"
    return type(message).__name__


def _fault(error: Exception) -> str:
    """What is wrong and where. msgspec's texts hold types and bounds, and values of enums only."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        return f"not a known value{text[text.rfind(' - at') :]}" if "Invalid" in text else text
    return f"it cannot be read or checked ({type(error).__name__})"


def _shape(node: Node) -> object:
    """All that decides how bytes are read, and nothing else: no docs, no defaults, no aliases."""
    match node:
        case Primitive():
            return node.kind, sorted(node.properties, key=str)
        case Fixed():
            return node.name, node.size, sorted(node.properties, key=str)
        case Enumeration():
            return node.name, node.symbols
        case ArrayOf():
            return "array", _shape(node.items)
        case MapOf():
            return "map", _shape(node.values)
        case Union():
            return "union", [_shape(branch) for branch in node.branches]
        case Record():
            return node.name, [(field.name, _shape(field.type)) for field in node.fields]


def _resolver(written: Node, today: Schema) -> Callable[[bytes], Any]:
    """Reads bytes of an older or newer schema as today's, by Avro's rules of resolution."""
    writer = fastavro.parse_schema(json.loads(canonical(written)))
    reader = fastavro.parse_schema(today)

    def resolve(body: bytes) -> Any:
        return fastavro.schemaless_reader(io.BytesIO(body), writer, reader)

    return resolve
