"""A batch through instances: what comes too early is held, what fails is parked, order is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidelog import Command, Context, Event, Id, Saga, State, on, replace
from tidelog.engine.reacting import Heard, Instance, Reactor
from tidelog.engine.saga_batch import NOTHING, SagaRow, react_all, retry_parked
from tidelog.saga import Phase

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class Repeat(Command):
    talk_id: Id
    word: str


class Opened(Event):
    talk_id: Id


class Said(Event):
    talk_id: Id
    word: str


TALKS = Context(name="talks", key="talk_id", commands=Repeat, events=Opened | Said)


class Talk(State):
    words: tuple[str, ...] = ()


def remember(state: Talk, event: Opened | Said) -> Talk:
    match event:
        case Opened():
            return state
        case Said():
            return replace(state, words=(*state.words, event.word))


def phase(_: Talk) -> Phase:
    return "forward"


forbidden: set[str] = set()
"""Words at which the reaction fails, as one with a mistake in it does."""


@pytest.fixture(autouse=True)
def nothing_is_forbidden() -> None:
    forbidden.clear()


def echo(event: Said, _: Talk) -> Repeat:
    if event.word in forbidden:
        raise ValueError(f"cannot repeat {event.word}")
    return Repeat(talk_id=event.talk_id, word=event.word)


SAGA = Saga(
    name="talk",
    key="talk_id",
    contexts=[TALKS],
    initial=Talk(),
    starts=[Opened],
    evolve=remember,
    phase=phase,
    steps=[on(Said, echo)],
)
REACTOR = Reactor(SAGA, [TALKS])


def heard(event: Opened | Said, number: int) -> Heard:
    at = BEGINNING + timedelta(seconds=number)
    return Heard(event, f"m-{number}", "c", "c", "", f"talks:0:{number}", at)


def said(word: str, number: int, key: str = "a") -> Heard:
    return heard(Said(talk_id=key, word=word), number)


def opened(number: int, key: str = "a") -> Heard:
    return heard(Opened(talk_id=key), number)


def words(instance: Instance[Any]) -> tuple[str, ...]:
    state: Talk = instance.state
    return state.words


def asked(requests: list[tuple[str, Any]]) -> list[str]:
    return [request.command.word for _, request in requests]


def begun(key: str = "a") -> Instance[Any]:
    (instance,) = react_all(REACTOR, {key: [opened(1, key)]}, {}).instances.values()
    return instance


def test_events_before_their_instance_are_held_in_order() -> None:
    changes = react_all(REACTOR, {"a": [said("one", 1), said("two", 2)]}, {"a": NOTHING})

    assert changes.instances == {}
    assert [(key, each.position) for key, each in changes.held] == [
        ("a", "talks:0:1"),
        ("a", "talks:0:2"),
    ]


def test_what_was_held_is_heard_in_order_right_after_the_beginning() -> None:
    early = (said("one", 1), said("two", 2))

    changes = react_all(
        REACTOR, {"a": [opened(3), said("four", 4)]}, {"a": SagaRow(None, False, early)}
    )

    assert words(changes.instances["a"]) == ("one", "two", "four")
    assert asked(changes.requests) == ["one", "two", "four"]
    assert (changes.released, changes.held) == (["a"], [])


def test_what_came_too_early_in_the_same_batch_comes_after_what_was_held_before() -> None:
    row = SagaRow(None, False, (said("one", 1),))

    changes = react_all(REACTOR, {"a": [said("two", 2), opened(3), said("four", 4)]}, {"a": row})

    assert words(changes.instances["a"]) == ("one", "two", "four")
    assert changes.held == []


def test_a_failing_reaction_parks_its_key_with_all_that_comes_later_and_no_other_key() -> None:
    forbidden.add("bad")
    rows = {"a": SagaRow(begun(), False, ()), "b": SagaRow(begun("b"), False, ())}
    events = {
        "a": [said("one", 2), said("bad", 3), said("three", 4)],
        "b": [said("one", 5, "b")],
    }

    changes = react_all(REACTOR, events, rows)

    assert words(changes.instances["a"]) == ("one",), "what came before the failure is kept"
    assert words(changes.instances["b"]) == ("one",)
    ((key, failed, error),) = changes.parked
    assert (key, failed.position, str(error)) == ("a", "talks:0:3", "cannot repeat bad")
    assert [each.position for _, each in changes.held] == ["talks:0:3", "talks:0:4"]


def test_a_parked_key_holds_what_comes_and_reacts_to_nothing() -> None:
    row = SagaRow(begun(), True, (said("bad", 2),))

    changes = react_all(REACTOR, {"a": [said("three", 3)]}, {"a": row})

    assert (changes.instances, changes.requests) == ({}, [])
    assert [each.position for _, each in changes.held] == ["talks:0:3"]


def test_a_retry_hears_all_that_is_held_in_order() -> None:
    row = SagaRow(begun(), True, (said("bad", 2), said("three", 3)))

    changes = retry_parked(REACTOR, "a", row)

    assert words(changes.instances["a"]) == ("bad", "three")
    assert asked(changes.requests) == ["bad", "three"]
    assert (changes.released, changes.held, changes.parked) == (["a"], [], [])


def test_a_retry_that_fails_again_changes_nothing_but_its_count() -> None:
    forbidden.add("bad")
    row = SagaRow(begun(), True, (said("two", 2), said("bad", 3)))

    changes = retry_parked(REACTOR, "a", row)

    assert (changes.instances, changes.requests, changes.held) == ({}, [], [])
    assert changes.released == []
    assert [each.heard.position for each in changes.parked] == ["talks:0:3"]


def test_a_held_event_that_fails_once_its_instance_begins_stays_held_and_parks_it() -> None:
    forbidden.add("bad")
    row = SagaRow(None, False, (said("bad", 1),))

    changes = react_all(REACTOR, {"a": [opened(2)]}, {"a": row})

    assert words(changes.instances["a"]) == ()
    assert [each.position for _, each in changes.held] == ["talks:0:1"]
    assert changes.released == ["a"], "they are written anew, behind nothing"
    assert [each.key for each in changes.parked] == ["a"]
