"""One context whose messages use every type that Avro can say, and codecs that know it."""

from __future__ import annotations

import enum
import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import fastavro
import msgspec
import pytest
from hypothesis import strategies as st
from msgspec import Meta

from schemas import CONTEXTS
from tidelog.avro import Scale, avro_schema
from tidelog.codec import Codec
from tidelog.errors import CodecError
from tidelog.message import Command, Context, Event, Id, Message
from tidelog.registry import MemoryRegistry

Instant = Annotated[datetime, Meta(tz=True)]
ClockTime = Annotated[time, Meta(tz=False)]
Money = Annotated[Decimal, Scale(precision=12, scale=2)]


class Colour(enum.Enum):
    """Two colours."""

    RED = "red"
    GREEN = "green"


class Point(Message):
    """A place."""

    x: int
    y: int = 0


class Card(Message, tag="card", tag_field="kind"):
    """Paid by card."""

    number: str


class Cash(Message, tag="cash", tag_field="kind"):
    """Paid in cash."""

    amount: int
    change: int = 0


class Paint(Command):
    """Ask for some paint."""

    id: Id
    litres: Annotated[int, Meta(ge=1, le=10)]


class Everything(Event):
    """Something of every kind."""

    id: Id
    flag: bool
    count: int
    share: float
    raw: bytes
    at: Instant
    day: date
    clock: ClockTime
    token: UUID
    price: Money
    colour: Colour
    size: Literal["small", "large"]
    point: Point
    points: tuple[Point, ...]
    names: dict[str, str]
    note: str | None
    paid: Card | Cash | None
    either: int | str | bool | None
    listed: list[float | None]


class Painted(Event):
    """Something small, with defaults."""

    id: Id
    litres: int
    colour: Colour = Colour.RED
    note: str | None = None
    corner: Point = Point(x=1)
    tags: tuple[str, ...] = ()


class Plain(Event):
    """What most events are made of: it is read as its message at once."""

    id: Id
    count: int
    flag: bool
    note: str | None
    colour: Colour
    corner: Point
    moved: Point | None
    points: tuple[Point, ...]
    tags: list[str]
    grid: tuple[tuple[int, ...], ...]


SAMPLE = Context(name="sample", key="id", commands=Paint, events=Everything | Painted | Plain)

REGISTRY = MemoryRegistry()
CODEC = Codec([SAMPLE, *CONTEXTS], REGISTRY)
CODEC.prepare()

LONG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
ID = st.from_regex(r"[A-Za-z0-9_~-]{1,40}", fullmatch=True)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
POINT = st.builds(Point, x=LONG, y=LONG)

EVERYTHING = st.builds(
    Everything,
    id=ID,
    flag=st.booleans(),
    count=LONG,
    share=FLOAT,
    raw=st.binary(max_size=40),
    at=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    clock=st.times(),
    token=st.uuids(),
    price=st.decimals(min_value=-(10**10), max_value=10**10, places=2).filter(
        lambda price: abs(price) < 10**10
    ),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(["small", "large"]),
    point=POINT,
    points=st.lists(POINT, max_size=4).map(tuple),
    names=st.dictionaries(TEXT, TEXT, max_size=4),
    note=st.none() | TEXT,
    paid=st.none() | st.builds(Card, number=TEXT) | st.builds(Cash, amount=LONG, change=LONG),
    either=st.none() | LONG | TEXT | st.booleans(),
    listed=st.lists(st.none() | FLOAT, max_size=4),
)

PLAIN = st.builds(
    Plain,
    id=ID,
    count=LONG,
    flag=st.booleans(),
    note=st.none() | TEXT,
    colour=st.sampled_from(Colour),
    corner=POINT,
    moved=st.none() | POINT,
    points=st.lists(POINT, max_size=4).map(tuple) | POINT.map(lambda point: (point,) * 64),
    tags=st.lists(TEXT, max_size=4),
    grid=st.lists(st.lists(LONG, max_size=3).map(tuple), max_size=3).map(tuple),
)
EVENTS = EVERYTHING | PLAIN


def schema_of(message: Message) -> Any:
    """The schema of its type, as fastavro wants it."""
    return fastavro.parse_schema(avro_schema(type(message), CODEC.full_name_of(type(message))))


def written_by_others(message: Message) -> bytes:
    """The Avro of the message, as fastavro writes it."""
    buffer = io.BytesIO()
    native = (bytes, datetime, date, time, Decimal, UUID)
    record = msgspec.to_builtins(message, builtin_types=native)
    fastavro.schemaless_writer(buffer, schema_of(message), record)
    return buffer.getvalue()


def with_schema(*fields: dict[str, Any], name: str = "tidelog.sample.Painted") -> bytes:
    """The prefix of a schema that somebody else registered."""
    schema = {"type": "record", "name": name, "fields": list(fields)}
    return b"\x00" + FOREIGN.add(schema).to_bytes(4, "big")


class ForeignRegistry:
    """A registry that takes every schema and gives it back."""

    def __init__(self) -> None:
        self._schemas: list[object] = []

    def add(self, schema: object) -> int:
        self._schemas.append(schema)
        return len(self._schemas) - 1

    def register(self, subject: str, schema_json: str) -> int:
        return self.add(json.loads(schema_json))

    def schema(self, schema_id: int) -> object:
        return self._schemas[schema_id]

    def lookup(self, subject: str, schema_json: str) -> int | None:
        return None

    def check(self, subject: str, schema_json: str) -> list[str]:
        return []


FOREIGN = ForeignRegistry()
READER = Codec([SAMPLE], FOREIGN)
READER.prepare()
FIELD_ID = {"name": "id", "type": "string"}
FIELD_LITRES = {"name": "litres", "type": "long"}


def refusal(value: bytes, codec: Codec = CODEC) -> str:
    with pytest.raises(CodecError) as refused:
        codec.decode(value)
    return str(refused.value)
