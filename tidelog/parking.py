"""Parking: when a failing event is tried again, what a decision is about, and what may replace it.

Pure, and shared by everybody who parks, retries, decides and folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from tidelog.engine.folding import Decision
from tidelog.errors import DefinitionError, Invalid
from tidelog.message import Context, Event
from tidelog.position import Position, parse_position

PAUSES_S = (1.0, 10.0, 60.0, 600.0, 3_600.0)
"""The pause before each further attempt, in seconds. After the last the key waits for a person."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def pause_after(attempts: int) -> float | None:
    """The pause in seconds after so many attempts; None where a person must come first."""
    return PAUSES_S[attempts - 1] if 1 <= attempts <= len(PAUSES_S) else None


def target_of(projection: str, version: int, position: Position) -> str:
    """The id of the decision about one event of one projection: `stock~1~orders~3~1042`."""
    return f"{projection}~{version}~{position.context}~{position.partition}~{position.sequence}"


def event_type(contexts: Iterable[Context], context: str, name: str) -> type[Event] | None:
    """The event type of this short name in a context; None where there is none."""
    kinds = {
        kind.__name__: kind
        for each in contexts
        if each.name == context
        for kind in each.event_types
    }
    return kinds.get(name)


def read_replacement(text: str, kind: type[Event]) -> Event:
    """The event whose data stands in the text as JSON; Invalid where it does not fit the type.

    As strict as the door for commands: no unknown field, no coercion, no NUL, no lone surrogate,
    no number that the log cannot hold.
    """
    try:
        event = msgspec.json.decode(text.encode(), type=kind)
    except UnicodeEncodeError:
        raise Invalid("The replacement is not valid Unicode.", "/replacement") from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Invalid(f"The replacement is no {kind.__name__}: {error}", "/replacement") from None
    if not all(map(_may_be_stored, _leaves(msgspec.to_builtins(event)))):
        raise Invalid(
            f"The replacement is no {kind.__name__}: it holds a NUL, a lone surrogate or a number "
            "beyond 64 bits.",
            "/replacement",
        )
    return event


def read_decision(contexts: Iterable[Context], event: Any) -> Decision:
    """What an OperatorDecided decides; DefinitionError or Invalid where it fits no event."""
    if event.decision == "discard":
        return Decision(None)
    if event.decision != "edit":
        raise DefinitionError(f"{event.decision!r} is no decision about an event")
    context = parse_position(event.position).context
    kind = event_type(contexts, context, event.event_type or "")
    if kind is None:
        raise DefinitionError(f"{context} has no event {event.event_type!r}")
    return Decision(read_replacement(event.replacement or "", kind))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _leaves(part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _may_be_stored(leaf: Any) -> bool:
    match leaf:
        case str():
            return "\0" not in leaf and not any("\ud800" <= letter <= "\udfff" for letter in leaf)
        case int():
            return _INT_MIN <= leaf <= _INT_MAX
    return True
