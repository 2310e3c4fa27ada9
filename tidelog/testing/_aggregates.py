"""Given events, when a command comes, then events, a rule, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from tidelog.aggregate import Aggregate
from tidelog.errors import Rejected
from tidelog.message import Command, Event, State
from tidelog.testing._messages import check_form, difference, listed

C = TypeVar("C", bound=Command)
S = TypeVar("S", bound=State)
E = TypeVar("E", bound=Event)


class GivenAggregate(Generic[C, S, E]):
    """An aggregate after some events."""

    def __init__(self, aggregate: Aggregate[C, S, E], history: Sequence[E] = ()) -> None:
        _check_history(aggregate, history)
        self.aggregate = aggregate
        self.history = tuple(history)
        self.state = aggregate.fold(history)

    def when(self, command: C) -> Outcome[C, S, E]:
        """Send the command; what came of it is asked with `then…` and `rejected`."""
        check_form(command)
        before = msgspec.to_builtins(self.state)
        events: tuple[E, ...] = ()
        rejected: Rejected | None = None
        try:
            events = tuple(self.aggregate.decide(command, self.state))
        except Rejected as rule:
            rejected = rule
        assert msgspec.to_builtins(self.state) == before, (
            f"{self.aggregate.name}: decide changed the state that it was given; "
            "it must only read it"
        )
        for event in events:
            check_form(event)
        return Outcome(given=self, command=command, events=events, refusal=rejected)

    def then_state(self, **fields: Any) -> None:
        """The state after the given events has these values in these fields."""
        _check_state(self.aggregate, self.state, fields, told=self.told())

    def told(self) -> str:
        """The first line of a failure."""
        past = ", ".join(type(event).__name__ for event in self.history) or "nothing"
        return f"given {self.aggregate.name} after {past}"


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[C, S, E]):
    """What one command came to."""

    given: GivenAggregate[C, S, E]
    command: C
    events: tuple[E, ...]
    refusal: Rejected | None

    def then(self, *expected: E) -> Outcome[C, S, E]:
        """Exactly these events happened, in this order; with no argument: nothing happened."""
        if self.refusal is not None:
            self._fail(expected, f"refused: {type(self.refusal).__name__}")
        if self.events != expected:
            self._fail(expected, listed(self.events), difference(expected, self.events))
        return self

    def rejected(self, rule: type[Rejected]) -> Outcome[C, S, E]:
        """The command was refused by exactly this rule, and nothing happened."""
        if self.refusal is None:
            self._fail(f"refused: {rule.__name__}", listed(self.events))
        if type(self.refusal) is not rule:
            self._fail(f"refused: {rule.__name__}", f"refused: {type(self.refusal).__name__}")
        return self

    def then_state(self, **fields: Any) -> Outcome[C, S, E]:
        """The state after the command has these values in these fields."""
        _check_state(self.given.aggregate, self.state, fields, told=self._told())
        return self

    @property
    def state(self) -> S:
        """The state after the command."""
        state = self.given.state
        for event in self.events:
            state = self.given.aggregate.evolve(state, event)
        return state

    def _told(self) -> str:
        return f"{self.given.told()}\nwhen {self.command!r}"

    def _fail(self, expected: Sequence[Event] | str, happened: str, hint: str = "") -> None:
        wanted = expected if isinstance(expected, str) else listed(expected)
        raise AssertionError(
            f"{self._told()}\nthen expected: {wanted}\n     happened: {happened}{hint}"
        )


def _check_history(aggregate: Aggregate[Any, Any, Any], history: Sequence[Event]) -> None:
    for event in history:
        assert type(event) in aggregate.context.event_types, (
            f"{type(event).__name__} is not an event of {aggregate.context.name}"
        )
        check_form(event)
    keys = {getattr(event, aggregate.key) for event in history}
    assert len(keys) <= 1, f"the given events belong to several aggregates: {sorted(keys)}"


def _check_state(
    aggregate: Aggregate[Any, Any, Any],
    state: State,
    fields: dict[str, Any],
    told: str,
) -> None:
    known = type(state).__struct_fields__
    for name, expected in fields.items():
        assert name in known, (
            f"{type(state).__name__} has no field {name!r}; it has {', '.join(known)}"
        )
        actual = getattr(state, name)
        assert actual == expected, (
            f"{told}\nthen {aggregate.name}.{name} expected: {expected!r}\n     but is: {actual!r}"
        )
