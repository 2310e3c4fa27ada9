"""Sagas: a process over several contexts, as a table of reactions to events.

There is no central brain: what happens next is what the table says about the event that came, and
about what the instance remembers. Every function here is pure. The engine gives each command an id
that follows from its cause, so that the same event never asks for two different things.

A process that fails undoes what it asked for, and not only what was confirmed: its compensations
are listed in the order of the steps that they undo, and run from the last to the first, each only
once the one after it is through.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Generic, Literal, TypeVar

from tidelog.errors import DefinitionError
from tidelog.message import Command, Context, Event, State, union_members

S = TypeVar("S", bound=State)
E = TypeVar("E", bound=Event)

Commands = Command | Sequence[Command] | None
"""What a reaction asks for: nothing, one thing, or several."""

Answers = Callable[[Any, date], Sequence[Event]]
"""The answers that a step still waits for, as a person may give them on this day; none if for none.

They are heard as if they had come: where a person skips the step, the process goes on from them.
"""

Phase = Literal["forward", "undoing", "completed", "compensated", "failed"]
"""How an instance stands. The last three are ends; a late answer may open an end again."""

ENDS: frozenset[Phase] = frozenset({"completed", "compensated", "failed"})

ATTEMPTS_MAX = 5
PAUSES_S = (30.0, 60.0, 300.0, 900.0)


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """What an event leads to.

    `answers` are the events that its commands may be answered by; `refused` says what to do where
    one of them is refused. Without it the instance is stuck then, and waits for a person. `skipped`
    gives the answers in whose place a person may skip it; without it nobody may. `outside` names
    the effects that such a skip stops, so that what was done by hand is not done once more.
    """

    event: type[Event]
    react: Callable[[Any, Any], Commands]
    answers: tuple[type[Event], ...] = ()
    refused: Callable[[Any, str], Commands] | None = None
    skipped: Answers | None = None
    outside: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        """The name of the step: that of the reaction, with hyphens."""
        return step_name(self.react)


def on(
    event: type[E],
    react: Callable[[E, S], Commands],
    *,
    answers: Sequence[type[Event]] = (),
    refused: Callable[[S, str], Commands] | None = None,
    skipped: Callable[[S, date], Sequence[Event]] | None = None,
    outside: Sequence[str] = (),
) -> Reaction:
    """When the event comes, react. The checker holds the two types together."""
    return Reaction(
        event=event,
        react=react,
        answers=tuple(answers),
        refused=refused,
        skipped=skipped,
        outside=tuple(outside),
    )


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a compensation is asked for again while it is still needed, and after how long.

    After the last attempt it is parked: the instance is stuck, and waits for a person.
    """

    attempts_max: int = ATTEMPTS_MAX
    pauses_s: Sequence[float] = PAUSES_S

    def pause_s(self, attempts: int) -> float:
        """How long to wait after so many attempts."""
        return self.pauses_s[min(attempts, len(self.pauses_s)) - 1]


@dataclass(frozen=True, kw_only=True)
class Compensation:
    """Undoes a step. `needed` says whether anything of it is left to undo."""

    undoes: str
    by: Callable[[Any], Commands]
    needed: Callable[[Any], bool]
    answers: tuple[type[Event], ...]
    retries: Retries
    skipped: Answers | None = None
    outside: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        """The name of the compensation: that of its function, with hyphens."""
        return step_name(self.by)


def undo(
    reaction: Callable[[E, S], Commands],
    by: Callable[[S], Commands],
    *,
    needed: Callable[[S], bool],
    answers: Sequence[type[Event]] = (),
    retries: Retries | None = None,
    skipped: Callable[[S, date], Sequence[Event]] | None = None,
    outside: Sequence[str] = (),
) -> Compensation:
    """Undo what the reaction asked for."""
    return Compensation(
        undoes=step_name(reaction),
        by=by,
        needed=needed,
        answers=tuple(answers),
        retries=retries or Retries(),
        skipped=skipped,
        outside=tuple(outside),
    )


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A time limit: it runs while `waiting`, and when it has passed `missed` says what to do.

    It is missed once. Where `missed` is left out the instance is stuck, and waits for a person.
    """

    name: str
    within: timedelta
    waiting: Callable[[Any], bool]
    missed: Callable[[Any], Commands] | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a process that goes in order.

    It is asked for once, when every step before it is done; where `ask` is left out it waits for
    the world. `done` and `undo_needed` look at the state. `within` bounds the wait; `missed` and
    `refused` say what to do then, and where they are left out the instance is stuck. `skipped` and
    `undo_skipped` give the answers in whose place a person may skip the step, or its undoing.
    """

    name: str
    done: Callable[[Any], bool]
    ask: Callable[[Any], Commands] | None = None
    answers: tuple[type[Event], ...] = ()
    refused: Callable[[Any, str], Commands] | None = None
    within: timedelta | None = None
    missed: Callable[[Any], Commands] | None = None
    undo: Callable[[Any], Commands] | None = None
    undo_needed: Callable[[Any], bool] | None = None
    undo_answers: tuple[type[Event], ...] = ()
    skipped: Answers | None = None
    outside: tuple[str, ...] = ()
    undo_skipped: Answers | None = None


@dataclass(frozen=True, kw_only=True)
class Saga(Generic[S]):
    """One kind of process.

    `key` is the field by which an event names its instance. `evolve(state, event)` remembers;
    reactions see the state after the event. `steps` lead on and `failures` turn the process
    round; neither runs while it is undone. `undone` ends that, once no compensation is needed.
    `turn_back(state, reason)` is what is asked for where a person wants the whole undone; it gives
    None where it is too late for that.
    A process with one owner (orchestration) lists its `order` instead: its steps go one after
    another, and are undone from the last to the first.
    """

    name: str
    key: str
    contexts: Sequence[Context]
    initial: S
    starts: Sequence[type[Event]]
    evolve: Callable[[S, Any], S]
    phase: Callable[[S], Phase]
    steps: Sequence[Reaction] = ()
    order: Sequence[Step] = ()
    failures: Sequence[Reaction] = ()
    compensations: Sequence[Compensation] = ()
    undone: Callable[[S], Commands] | None = None
    turn_back: Callable[[S, str], Commands] | None = None
    deadlines: Sequence[Deadline] = ()

    def __post_init__(self) -> None:
        known = {event for context in self.contexts for event in context.event_types}
        for event in self.event_types:
            if event not in known:
                raise DefinitionError(f"{self.name}: {event.__name__} is of none of its contexts")
            if self.key not in event.__struct_fields__:
                raise DefinitionError(f"{self.name}: {event.__name__} has no field {self.key!r}")
        self._check_reactions()

    @property
    def event_types(self) -> tuple[type[Event], ...]:
        """The events that an instance remembers; it hears of no other."""
        hint: Any = typing.get_type_hints(self.evolve).get("event")
        if hint is None:
            raise DefinitionError(f"{self.name}: evolve needs an annotated parameter 'event'")
        return tuple(union_members(hint, Event))

    def key_of(self, event: Event) -> str | None:
        """The instance that the event belongs to; None where it belongs to none."""
        key: str | None = getattr(event, self.key)
        return key

    @property
    def reactions(self) -> Mapping[type[Event], Sequence[Reaction]]:
        """Steps and failures by the event that they react to, in the order of the table."""
        found: dict[type[Event], list[Reaction]] = {}
        for reaction in (*self.steps, *self.failures):
            found.setdefault(reaction.event, []).append(reaction)
        return found

    @property
    def undoing(self) -> Sequence[Compensation]:
        """Every compensation, in the order of the steps that they undo."""
        ordered = [_compensation(step) for step in self.order if step.undo is not None]
        return (*self.compensations, *ordered)

    @property
    def limits(self) -> Sequence[Deadline]:
        """Every deadline, those of the steps in order among them."""
        ordered = [_deadline(self, step) for step in self.order if step.within is not None]
        return (*self.deadlines, *ordered)

    def _check_reactions(self) -> None:
        heard = set(self.event_types)
        names: set[str] = set()
        for reaction in (*self.steps, *self.failures):
            if reaction.event not in heard:
                raise DefinitionError(
                    f"{self.name}: {reaction.step} reacts to {reaction.event.__name__}, "
                    "which evolve does not remember"
                )
            names.add(reaction.step)
        names.update(step.name for step in self.order)
        for compensation in self.compensations:
            if compensation.undoes not in names:
                raise DefinitionError(f"{self.name}: there is no step {compensation.undoes}")


def current_step(order: Sequence[Step], state: Any) -> Step | None:
    """The first step that is not done."""
    return next((step for step in order if not step.done(state)), None)


def _compensation(step: Step) -> Compensation:
    assert step.undo is not None and step.undo_needed is not None, (
        f"{step.name}: a step that can be undone says when that is needed"
    )
    return Compensation(
        undoes=step.name,
        by=step.undo,
        needed=step.undo_needed,
        answers=step.undo_answers,
        retries=Retries(),
        skipped=step.undo_skipped,
    )


def _deadline(saga: Saga[Any], step: Step) -> Deadline:
    def waiting(state: Any) -> bool:
        return saga.phase(state) == "forward" and current_step(saga.order, state) is step

    assert step.within is not None, "only steps that say how long they take have a deadline"
    return Deadline(name=step.name, within=step.within, waiting=waiting, missed=step.missed)


def step_name(function: Callable[..., Any]) -> str:
    """The name of a step, from its function's: `reserve_stock` → `reserve-stock`."""
    return function.__name__.strip("_").replace("_", "-")


def commands_of(function: Callable[..., Any]) -> tuple[type[Command], ...]:
    """The commands that a reaction may ask for, by its annotation."""
    hint: Any = typing.get_type_hints(function).get("return")
    return tuple(_commands_in(hint))


def _commands_in(hint: Any) -> list[type[Command]]:
    if isinstance(hint, type) and issubclass(hint, Command):
        return [hint]
    return [command for part in typing.get_args(hint) for command in _commands_in(part)]
