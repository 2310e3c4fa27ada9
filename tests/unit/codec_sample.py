"""One context whose messages use every type that Avro can say."""

from __future__ import annotations

import enum
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from tidelog.avro import Scale
from tidelog.message import Command, Context, Event, Id, Message

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


SAMPLE = Context(name="sample", key="id", commands=Paint, events=Everything | Painted)
