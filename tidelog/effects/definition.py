"""What an effect is: an event, an async function that acts on the world outside, and its patience.

The function may be called again at any time, also after it has succeeded, for the process may die
before it could write that down. Whatever it does outside carries a key that never changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tidelog.errors import TidelogError, Unavailable
from tidelog.message import Command, Event
from tidelog.saga import step_name

E = TypeVar("E", bound=Event)


class NoAnswer(Unavailable):
    """Whether the other side has done it is not known: it is asked again, by the same key."""


class NotSent(NoAnswer):
    """Nobody was reached, so nothing was done by this call."""


class NotNow(Unavailable):
    """The breaker is open: nothing was tried. `after_s` says in how many seconds to come again."""

    def __init__(self, name: str, after_s: float) -> None:
        super().__init__(f"{name} fails too often and is left alone for {after_s:.1f} s.")
        self.after_s = after_s


class NotKnownYet(Unavailable):
    """What the effect must know is not taken in yet: it is tried again."""


class WorkRefused(TidelogError):
    """The other side says that it will never do this: a person must look.

    `outcome` is a command that says so; the work stays all the same.
    """

    def __init__(self, reason: str, outcome: Command | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often, and how long, work is tried again.

    The pause doubles from `pause_s` to `pause_s_max`; up to half of it is left to chance, so that
    those who failed together do not come back together. The tries are used up after `attempts_max`
    of them or `give_up_s` seconds. Then the work is parked: it waits for a person, or, where it
    `insists`, goes on at the longest pause and is told that it is giving up.
    """

    attempts_max: int = 8
    pause_s: float = 0.5
    pause_s_max: float = 60.0
    give_up_s: float = 300.0
    insists: bool = False

    def pause_after(self, attempts: int, chance: float) -> float:
        """How many seconds to wait after so many attempts; `chance` is from 0 to 1."""
        doublings = min(max(attempts, 1) - 1, 32)
        pause = min(self.pause_s * 2.0**doublings, self.pause_s_max)
        return float(pause * (1 - chance / 2))

    def is_used_up(self, attempts: int, age_s: float) -> bool:
        """Whether so many attempts within so many seconds are enough."""
        return attempts >= self.attempts_max or age_s >= self.give_up_s


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try of one piece of work, as its effect sees it.

    `message_id` is the event's. `known` tells what a Reference of this name has kept under a key;
    None where it has not come yet. `memo` is what an earlier try of the same work has remembered;
    `remember` writes it down for good before it returns.
    """

    number: int
    giving_up: bool
    message_id: str
    correlation_id: str
    memo: str
    remember: Callable[[str], Awaitable[None]]
    known: Callable[[str, str], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is done outside when an event comes, and how it is retried."""

    event: type[Event]
    perform: Callable[[Any, Attempt], Awaitable[Command | None]]
    retries: RetryPolicy

    @property
    def name(self) -> str:
        """Its name: that of its function, with hyphens."""
        return step_name(self.perform)


def effect(
    event: type[E],
    perform: Callable[[E, Attempt], Awaitable[Command | None]],
    *,
    retries: RetryPolicy,
) -> Effect:
    """When the event comes, do this. The checker holds the two types together."""
    return Effect(event=event, perform=perform, retries=retries)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What effects must know of an event that is not theirs: a value under a key, kept for good.

    The first event of a key counts.
    """

    name: str
    event: type[Event]
    key: Callable[[Any], str]
    value: Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class Bulkhead:
    """Effects that share a bound: at most `calls_max` of them are under way in one process.

    One that hangs takes nothing from the others.
    """

    name: str
    effects: tuple[Effect, ...]
    calls_max: int = 16
