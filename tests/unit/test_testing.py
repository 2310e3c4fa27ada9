"""The harness says yes only where it should, and its failures say what to look at."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, assert_never

import hypothesis
import msgspec
import pytest

from tidelog import (
    Aggregate,
    Command,
    Context,
    Event,
    Id,
    Projection,
    Rejected,
    Row,
    State,
    replace,
)
from tidelog.errors import DefinitionError
from tidelog.testing import given
from tidelog.testing.strategies import commands_for, messages_of

Level = Annotated[int, msgspec.Meta(ge=0, le=3)]


class Fill(Command):
    glass_id: Id
    by: int


class Break(Command):
    glass_id: Id


class Filled(Event):
    glass_id: Id
    level: Level


class Broken(Event):
    glass_id: Id


class Glass(State):
    level: int = 0
    broken: bool = False
    log: list[str] = msgspec.field(default_factory=list)


class GlassIsBroken(Rejected):
    """A broken glass cannot be filled."""


class GlassIsFull(Rejected):
    """A full glass cannot be filled."""


GLASSES = Context(name="glasses", key="glass_id", commands=Fill | Break, events=Filled | Broken)


def decide(command: Fill | Break, glass: Glass) -> list[Filled | Broken]:
    match command:
        case Fill(glass_id=glass_id, by=by):
            if glass.broken:
                raise GlassIsBroken(glass_id)
            return [Filled(glass_id=glass_id, level=glass.level + by)]
        case Break(glass_id=glass_id):
            if by_mistake(glass_id):
                glass.log.append("mutated")
            return [] if glass.broken else [Broken(glass_id=glass_id)]
    assert_never(command)


def by_mistake(glass_id: str) -> bool:
    return glass_id == "mutating"


def evolve(glass: Glass, event: Filled | Broken) -> Glass:
    match event:
        case Filled(level=level):
            return replace(glass, level=level)
        case Broken():
            return replace(glass, broken=True)
    assert_never(event)


glasses = Aggregate(name="glass", context=GLASSES, initial=Glass(), decide=decide, evolve=evolve)


class Shelf(Row):
    glass_id: Id
    level: Level


def project(row: Shelf | None, event: Filled | Broken) -> Shelf | None:
    match event:
        case Filled(glass_id=glass_id, level=level):
            return Shelf(glass_id=glass_id, level=level)
        case Broken():
            return None
    assert_never(event)


shelf = Projection(
    name="shelf",
    version=1,
    contexts=[GLASSES],
    row=Shelf,
    key="glass_id",
    evolve=project,
)

fill = Fill(glass_id="g", by=1)
filled = Filled(glass_id="g", level=1)
broken = Broken(glass_id="g")


def test_a_true_sentence_passes() -> None:
    given(glasses).when(fill).then(filled).then_state(level=1, broken=False)
    given(glasses, filled).then_state(level=1)
    given(glasses, broken).when(fill).rejected(GlassIsBroken)
    given(glasses, broken).when(Break(glass_id="g")).then()
    given(shelf, filled).then_row("g", Shelf(glass_id="g", level=1))
    given(shelf, filled).then_row("h", None)
    given(shelf, filled, broken).then_row("g", None)


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        (lambda: given(glasses).when(fill).then(), "then expected: nothing"),
        (lambda: given(glasses).when(fill).then(), "happened: Filled(glass_id='g'"),
        (
            lambda: given(glasses, filled).when(fill).then(filled),
            "differing: Filled.level: expected 1, happened 2",
        ),
        (
            lambda: given(glasses, broken).when(fill).then(filled),
            "happened: refused: GlassIsBroken",
        ),
        (
            lambda: given(glasses, broken).when(fill).then(),
            "given glass after Broken",
        ),
        (
            lambda: given(glasses).when(fill).rejected(GlassIsBroken),
            "expected: refused: GlassIsBroken",
        ),
        (
            lambda: given(glasses, broken).when(fill).rejected(GlassIsFull),
            "happened: refused: GlassIsBroken",
        ),
        (
            lambda: given(glasses).when(fill).then_state(level=2),
            "then glass.level expected: 2",
        ),
        (lambda: given(glasses).then_state(size=2), "Glass has no field 'size'"),
        (
            lambda: given(glasses, replace(filled, level=3)).when(fill),
            "Filled breaks its own type",
        ),
        (
            lambda: given(glasses, filled, Broken(glass_id="h")),
            "belong to several aggregates: ['g', 'h']",
        ),
        (
            lambda: given(glasses).when(Break(glass_id="mutating")),
            "decide changed the state",
        ),
        (
            lambda: given(shelf, filled).then_row("h", Shelf(glass_id="h", level=1)),
            "the rows are: ['g']",
        ),
        (
            lambda: given(shelf, filled).then_row("g", None),
            "then row 'g' expected: None",
        ),
    ],
)
def test_a_false_sentence_fails_and_says_why(sentence: Callable[[], object], told: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(told)):
        sentence()


@hypothesis.given(commands_for(glasses, key="g"))
def test_random_commands_are_valid_and_for_the_key(command: Fill | Break) -> None:
    assert command.glass_id == "g"
    assert msgspec.convert(msgspec.to_builtins(command), type(command)) == command


@hypothesis.given(messages_of(Filled))
def test_random_messages_keep_to_their_bounds(event: Filled) -> None:
    assert 0 <= event.level <= 3


@hypothesis.given(
    messages_of(
        Fill,
        fields={
            "by": hypothesis.strategies.just(1),
            "Fill.by": hypothesis.strategies.just(2),
        },
    )
)
def test_a_field_of_one_type_wins_over_the_field_everywhere(command: Fill) -> None:
    assert command.by == 2


class Odd(Command):
    glass_id: Id
    when: msgspec.Raw


def test_a_type_without_known_values_asks_for_a_strategy() -> None:
    with pytest.raises(DefinitionError, match="'when'"):
        messages_of(Odd)
