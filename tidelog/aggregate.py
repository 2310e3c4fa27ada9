"""Aggregates: the consistency unit of the write side, as three pure functions.

The shape is the Decider (Jérémie Chassaing, "Functional Event Sourcing Decider"): `initial`,
`decide(command, state) -> events`, `evolve(state, event) -> state`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tidelog.errors import DefinitionError
from tidelog.message import Command, Context, Event, State, union_members

C = TypeVar("C", bound=Command)
S = TypeVar("S", bound=State)
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, kw_only=True)
class Aggregate(Generic[C, S, E]):
    """One kind of aggregate. The unions that `decide` and `evolve` name are the context's own.

    `decide` returns the events that the command causes, `[]` where it changes nothing, or raises
    a `Rejected`. Both functions are pure: no I/O, no clock, no random.
    """

    name: str
    context: Context
    initial: S
    decide: Callable[[C, S], Sequence[E]]
    evolve: Callable[[S, E], S]

    def __post_init__(self) -> None:
        _check_union(self, self.decide, "command", set(self.context.command_types), Command)
        _check_union(self, self.evolve, "event", set(self.context.event_types), Event)

    @property
    def key(self) -> str:
        """The name of the field that holds the aggregate's id."""
        return self.context.key

    @property
    def state_type(self) -> type[S]:
        """The type of the state."""
        return type(self.initial)

    def fold(self, events: Iterable[E]) -> S:
        """The state after these events."""
        state = self.initial
        for event in events:
            state = self.evolve(state, event)
        return state


def _check_union(
    aggregate: Aggregate[Any, Any, Any],
    function: Callable[..., Any],
    parameter: str,
    declared: set[type],
    base: type,
) -> None:
    hints = typing.get_type_hints(function)
    if parameter not in hints:
        raise DefinitionError(
            f"{aggregate.name}: {function.__name__} needs a parameter {parameter!r}"
        )
    handled = set(union_members(hints[parameter], base))
    if handled != declared:
        odd = ", ".join(sorted(kind.__name__ for kind in handled ^ declared))
        raise DefinitionError(
            f"{aggregate.name}: {function.__name__} and context {aggregate.context.name} "
            f"do not name the same messages: {odd}"
        )
