"""Messages: what a command asks for and what an event states, as frozen typed records.

A subclass is a page of annotated fields and nothing else. The annotations are the schema: Avro is
generated from them, HTTP bodies are checked against them, and no value is ever coerced into them.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import (
    Annotated,
    Any,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from tidelog.errors import DefinitionError

# `(?![\s\S])` is the end of the text in every dialect; `$` would let a trailing newline pass.
ID_PATTERN = r"^(?!\.{1,2}(?![\s\S]))[A-Za-z0-9._~-]{1,128}(?![\s\S])"

Id = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
"""An identifier: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ -`, and neither `.` nor `..`."""

Text = Annotated[str, msgspec.Meta(max_length=1000)]
"""Free text of at most 1,000 characters. NUL and lone surrogates are refused at the edge."""

Record = TypeVar("Record", bound="Message")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A frozen record with typed fields. Also the base of the value objects inside messages.

    What is frozen cannot come to hold itself, so the garbage collector need not look at it.
    """


class Command(Message, frozen=True, kw_only=True):
    """A request in the imperative: `PlaceOrder`. It may be refused."""


class Event(Message, frozen=True, kw_only=True):
    """A fact in the past tense: `OrderPlaced`. It is never refused and lives for ever."""


class State(Message, frozen=True, kw_only=True):
    """What the rules of an aggregate or saga need to remember, and no more."""


class Row(Message, frozen=True, kw_only=True):
    """One row of a read model."""


def replace(record: Record, **changes: Any) -> Record:
    """A copy of the record with some fields changed."""
    return msgspec.structs.replace(record, **changes)


@dataclass(frozen=True, kw_only=True)
class Context:
    """A bounded context: a name, the key of its aggregates, and its commands and events.

    `commands` and `events` take a message type or a union of them (`PlaceOrder | CancelOrder`).
    The name gives the topics (`orders.events`, `orders.commands`) and, with the short name of a
    type, its full name (`tidelog.orders.OrderPlaced`).
    """

    name: str
    key: str
    commands: Any
    events: Any

    def __post_init__(self) -> None:
        for message in (*self.command_types, *self.event_types):
            if self.key not in message.__struct_fields__:
                raise DefinitionError(
                    f"{message.__name__} has no field {self.key!r}, the key of {self.name}"
                )
        names = [message.__name__ for message in (*self.command_types, *self.event_types)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise DefinitionError(f"{self.name} has two messages named {doubled[0]}")

    @cached_property
    def command_types(self) -> tuple[type[Command], ...]:
        """The command types in the order of their union."""
        return tuple(union_members(self.commands, Command))

    @cached_property
    def event_types(self) -> tuple[type[Event], ...]:
        """The event types in the order of their union."""
        return tuple(union_members(self.events, Event))

    @property
    def source(self) -> str:
        """The CloudEvents source of its events: `/orders`."""
        return f"/{self.name}"

    def full_name(self, message: type[Message]) -> str:
        """`tidelog.<context>.<Message>`, the Avro name and the `ce_type`."""
        return f"tidelog.{self.name}.{message.__name__}"


def union_members(union: Any, base: Any) -> Iterator[Any]:
    """The members of `A | B` (or of a lone `A`); each must be a subclass of `base`."""
    members = get_args(union) if get_origin(union) in (Union, types.UnionType) else (union,)
    for member in members:
        if not (isinstance(member, type) and issubclass(member, base)):
            raise DefinitionError(f"{member!r} is not a subclass of {base.__name__}")
        yield member
