"""Operations: what people decide where the system cannot go on by itself.

An event that a projection cannot fold, a saga that is stuck, work outside that is given up: each
waits for a person.
The decision is an event like any other: whoever folds the log folds the decisions with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schemas.values import Name
from tidelog.message import Command, Context, Event, Id, Text

Version = Annotated[int, Meta(ge=1, le=1_000_000)]
"""The declared version of a projection."""

PositionText = Annotated[
    str,
    Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}:(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,17})(?![\s\S])"),
]
"""A place in the log: `orders:3:1042`."""

Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}(?![\s\S])")]
"""One of a short list that may grow: events hold its form, commands hold the list itself."""

TypeName = Annotated[str, Meta(pattern=r"^[A-Z][A-Za-z0-9]{0,126}(?![\s\S])")]
"""The short name of an event type: `OrderPlaced`."""

Document = Annotated[str, Meta(min_length=2, max_length=200_000)]
"""A JSON object as text: the data of an event, at most 200,000 characters."""


class DecideParked(Command):
    """Decide what becomes of an event that is parked. The same decision again is quiet.

    `target` names what is decided on; of a projection it reads
    `<projection>~<version>~<context>~<partition>~<sequence>`. An `edit` gives the event's data anew
    in `replacement`, and its type in `event_type`. A `retry` is of the instance of a saga, which
    `key` names, or of the parked work of an effect for the aggregate that `key` names. A `skip`
    takes the `step` of an instance as done, a `compensate` turns the instance back. Each of these
    has a target of its own.
    """

    target: Id
    kind: Literal["projection", "saga", "effect", "command"]
    projection: Name
    version: Version
    position: PositionText
    decision: Literal["discard", "edit", "retry", "skip", "compensate"]
    reason: Text
    operator: Name
    event_type: TypeName | None = None
    replacement: Document | None = None
    key: Id | None = None
    step: Word | None = None


class OperatorDecided(Event):
    """A person decided: of an event, that it counts as `replacement` has it, or not at all.

    `projection` is the one that could not take the event, at this version; for other kinds it names
    the saga or the effect.
    """

    target: Id
    kind: Word
    projection: Name
    version: Version
    position: PositionText
    decision: Word
    reason: Text
    operator: Name
    event_type: TypeName | None = None
    replacement: Document | None = None
    key: Id | None = None
    step: Word | None = None


OPERATIONS = Context(name="operations", key="target", commands=DecideParked, events=OperatorDecided)
