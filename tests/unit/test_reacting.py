"""The engine of the sagas: ids that repeat, deadlines, refusals, retries, late answers, people."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.trip_saga import (
    BEGINNING,
    SAGA,
    TRIPS,
    WITHIN,
    Asked,
    Book,
    Booked,
    Closed,
    GiveUp,
    Trip,
    Unbook,
    Unbooked,
    after,
    asked,
    asks,
    failed,
    give_up,
    give_up_refused,
    heard,
    hotel,
    instance_after,
    of,
    phase,
    remember,
    retry,
    step,
    trip_saga,
)
from tidelog import Saga
from tidelog.engine.deciding import decide
from tidelog.engine.reacting import (
    Reacted,
    Reactor,
)
from tidelog.saga import Step

# --- ids ------------------------------------------------------------------------------------


def test_the_same_event_asks_for_the_same_commands_with_the_same_ids() -> None:
    first, again = after(asked), after(asked)

    assert [each.command_id for each in first.requests] == [
        each.command_id for each in again.requests
    ]
    assert len({each.command_id for each in first.requests}) == 2


def test_an_event_that_comes_twice_asks_for_nothing_more() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    first = reactor.react(None, heard(asked, 1))

    again = reactor.react(first.instance, heard(asked, 1))

    assert asks(again) == []
    assert of(again.instance).steps == of(first.instance).steps


def test_another_event_of_the_same_type_asks_for_another_command() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    first = reactor.react(instance_after(asked), heard(hotel, 2))
    second = reactor.react(first.instance, heard(hotel, 3))

    assert first.requests[0].command_id != second.requests[0].command_id


def test_a_compensation_is_one_command_whatever_event_asks_for_it() -> None:
    once = after(asked, failed)
    later = after(asked, hotel, hotel, failed)

    assert [each.command_id for each in once.requests] == [
        each.command_id for each in later.requests
    ]


def test_every_command_carries_its_cause_and_the_correlation_of_the_beginning() -> None:
    (request, _) = after(asked).requests

    assert (request.causation_id, request.correlation_id, request.traceparent) == (
        "m-1",
        "correlation",
        "trace",
    )
    assert (request.context, request.subject, request.step) == ("trips", "t", "book")


# --- answers --------------------------------------------------------------------------------


def test_the_first_event_that_a_command_caused_is_its_answer() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    begun = instance_after(asked)
    cause = begun.steps[1].command_id

    once = of(reactor.react(begun, heard(hotel, 2, cause)).instance)
    twice = of(reactor.react(once, heard(hotel, 3, cause)).instance)

    assert (once.steps[1].status, once.steps[1].event_type) == ("done", "Booked")
    assert (twice.steps[1].position, twice.steps[0].status) == ("trips:0:2", "pending")


def test_what_has_no_answer_when_an_instance_ends_is_skipped_and_may_be_answered_late() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    ended = instance_after(asked, Closed(trip_id="t"))
    assert (ended.phase, ended.steps[0].status, ended.next_due) == ("completed", "skipped", None)

    late = reactor.react(ended, heard(hotel, 3, ended.steps[1].command_id))

    assert of(late.instance).steps[1].status == "done"
    assert of(late.instance).ended_at == ended.ended_at


def test_a_late_answer_to_what_was_undone_is_undone_too() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    ended = instance_after(asked, failed, Unbooked(trip_id="t"))
    assert ended.phase == "compensated"

    late = reactor.react(ended, heard(hotel, 4, ended.steps[1].command_id))

    assert of(late.instance).phase == "undoing"
    assert of(late.instance).ended_at is None


# --- deadlines ------------------------------------------------------------------------------


def test_a_deadline_is_missed_once() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    begun = instance_after(asked)
    late = begun.started_at + WITHIN

    early = reactor.remind(begun, late - timedelta(microseconds=1))
    missed = reactor.remind(begun, late)
    again = reactor.remind(of(missed.instance), late + WITHIN)

    assert asks(early) == []
    assert asks(missed) == [GiveUp(trip_id="t", why="late")]
    assert asks(again) == []
    assert (of(missed.instance).missed, of(missed.instance).stuck) == (("trip",), "")
    assert of(missed.instance).next_due is None


def test_a_deadline_does_not_move_with_the_events_that_come_meanwhile() -> None:
    assert instance_after(asked, hotel).due == instance_after(asked).due


def test_a_deadline_that_nobody_answers_for_leaves_the_instance_to_a_person() -> None:
    saga = trip_saga(missed=None)

    missed = Reactor(saga, [TRIPS]).remind(instance_after(asked, saga=saga), BEGINNING + 2 * WITHIN)

    assert asks(missed) == []
    assert "trip has lasted longer than 0:10:00" in of(missed.instance).stuck


def test_a_deadline_whose_function_fails_waits_for_a_person_and_begins_anew() -> None:
    def broken(_: Trip) -> GiveUp:
        raise KeyError("a bug")

    saga = trip_saga(missed=broken)
    begun = instance_after(asked, saga=saga)
    late = begun.started_at + WITHIN

    halted = of(Reactor(saga, [TRIPS]).remind(begun, late).instance)

    assert halted.stuck == "trip: KeyError: 'a bug'"
    assert halted.next_due is None, "it is not tried over and over"
    assert halted.steps == begun.steps
    mended = Reactor(SAGA, [TRIPS])
    again = of(decide(mended, halted, retry).instance)
    assert again.due == {"trip": retry.at + WITHIN}
    assert asks(mended.remind(again, late + WITHIN)) == [GiveUp(trip_id="t", why="late")]


def test_a_deadline_that_is_waited_for_no_more_is_dropped() -> None:
    assert "trip" not in instance_after(asked, failed).due


# --- refusals -------------------------------------------------------------------------------


def test_a_refusal_without_a_branch_leaves_the_instance_to_a_person() -> None:
    begun = instance_after(asked)

    refused = Reactor(SAGA, [TRIPS]).refused(begun, begun.steps[0].command_id, "no-seat", BEGINNING)

    assert asks(refused) == []
    assert of(refused.instance).stuck == "book: Book was refused: no-seat"
    assert (step(refused.instance, "book").status, step(refused.instance, "book").reason) == (
        "failed",
        "no-seat",
    )


def test_a_branch_that_fails_leaves_the_instance_to_a_person() -> None:
    def broken(_: Trip, __: str) -> GiveUp:
        raise KeyError("a bug")

    saga = trip_saga(refused=broken)
    begun = instance_after(asked, saga=saga)
    identity = begun.steps[0].command_id

    halted = Reactor(saga, [TRIPS]).refused(begun, identity, "no-seat", BEGINNING)

    assert of(halted.instance).stuck == "after a refusal (no-seat): KeyError: 'a bug'"
    assert asks(halted) == []


def test_a_refusal_with_a_branch_goes_another_way_once() -> None:
    saga = trip_saga(refused=give_up_refused)
    reactor = Reactor(saga, [TRIPS])
    begun = instance_after(asked, saga=saga)
    identity = begun.steps[0].command_id

    refused = reactor.refused(begun, identity, "no-seat", BEGINNING)
    again = reactor.refused(of(refused.instance), identity, "no-seat", BEGINNING)

    assert asks(refused) == [GiveUp(trip_id="t", why="no-seat")]
    assert of(refused.instance).stuck == ""
    assert asks(again) == []


def test_a_refusal_of_what_is_done_or_of_another_changes_nothing() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    begun = instance_after(asked)
    identity = begun.steps[1].command_id
    done = of(reactor.react(begun, heard(hotel, 2, identity)).instance)

    assert of(reactor.refused(done, identity, "late", BEGINNING).instance).stuck == ""
    assert of(reactor.refused(done, "another", "odd", BEGINNING).instance).steps == done.steps


# --- compensations --------------------------------------------------------------------------


def test_a_compensation_is_tried_again_with_its_pauses_and_then_waits_for_a_person() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    reacted = after(asked, failed)
    identities = {each.command_id for each in reacted.requests}
    instance, pauses = of(reacted.instance), []
    while not instance.stuck:
        due, before = instance.due["again:unbook"], instance.updated_at
        pauses.append((due - before).total_seconds())
        reacted = reactor.remind(instance, due)
        identities |= {each.command_id for each in reacted.requests}
        instance = of(reacted.instance)

    assert pauses == [10.0, 20.0, 20.0]
    assert instance.stuck == "unbook had no effect in 3 attempts"
    assert step(instance, "unbook").attempts == 3
    assert len(identities) == 1, "however often: one command"
    assert instance.next_due is None, "a person comes first"


def test_a_compensation_that_had_its_effect_is_not_tried_again() -> None:
    undone = instance_after(asked, failed, Unbooked(trip_id="t"))

    assert (undone.phase, undone.due) == ("compensated", {})
    assert asks(Reactor(SAGA, [TRIPS]).remind(undone, BEGINNING + WITHIN)) == []


def test_an_instance_that_is_being_undone_does_not_go_on() -> None:
    assert asks(after(asked, failed, hotel)) == []


# --- people ---------------------------------------------------------------------------------


def test_a_person_has_what_is_stuck_sent_again_under_the_same_id() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    begun = instance_after(asked)
    identity = begun.steps[0].command_id
    stuck = of(reactor.refused(begun, identity, "no-seat", BEGINNING).instance)

    retried = decide(reactor, stuck, retry)

    assert of(retried.instance).stuck == ""
    assert identity in {each.command_id for each in retried.requests}
    assert step(retried.instance, "book").status == "pending"
    assert step(retried.instance, "book").attempts == 1


def test_a_person_gives_a_compensation_all_its_attempts_again() -> None:
    reactor = Reactor(SAGA, [TRIPS])
    instance = instance_after(asked, failed)
    while not instance.stuck:
        instance = of(reactor.remind(instance, instance.due["again:unbook"]).instance)

    retried = decide(reactor, instance, retry)

    assert Unbook(trip_id="t") in asks(retried)
    assert step(retried.instance, "unbook").attempts == 1
    assert of(retried.instance).due["again:unbook"] == BEGINNING + WITHIN + timedelta(seconds=10)


# --- beginnings and bad definitions ---------------------------------------------------------


def test_an_event_before_its_instance_is_to_be_held() -> None:
    assert after(hotel) == Reacted(None, ())


def test_a_command_beyond_its_bounds_fails_the_reaction_and_not_its_sending() -> None:
    with pytest.raises(Exception, match="trip_id"):
        after(Asked(trip_id="no id"))


# --- in order -------------------------------------------------------------------------------


def go(state: Trip) -> Book:
    return Book(trip_id=state.trip_id, what="flight")


def has_flight(state: Trip) -> bool:
    return "flight" in state.booked


def has_hotel(state: Trip) -> bool:
    return "hotel" in state.booked


ORDERED: Saga[Trip] = Saga(
    name="ordered",
    key="trip_id",
    contexts=[TRIPS],
    initial=Trip(),
    starts=[Asked],
    evolve=remember,
    phase=phase,
    order=[
        Step(name="flight", ask=go, done=has_flight, within=WITHIN),
        Step(name="hotel", done=has_hotel, within=WITHIN, missed=give_up),
    ],
)


def test_a_step_in_order_is_asked_for_once_and_has_its_own_clock() -> None:
    begun = instance_after(asked, saga=ORDERED)
    assert [each.step for each in begun.steps] == ["flight"]
    assert set(begun.due) == {"flight"}

    reacted = after(asked, Booked(trip_id="t", what="flight"), saga=ORDERED)

    assert asks(reacted) == []
    assert set(of(reacted.instance).due) == {"hotel"}
