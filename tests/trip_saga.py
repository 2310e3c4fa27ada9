"""A trip that is booked in steps, or undone: the saga of the engine's tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tidelog import Command, Context, Deadline, Event, Id, Saga, State, on, replace, undo
from tidelog.engine.reacting import DecisionRecord, Heard, Instance, Reacted, Reactor, StepRecord
from tidelog.saga import Phase, Retries

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
WITHIN = timedelta(minutes=10)


class Book(Command):
    trip_id: Id
    what: str


class Unbook(Command):
    trip_id: Id


class GiveUp(Command):
    trip_id: Id
    why: str


class Asked(Event):
    trip_id: Id


class Booked(Event):
    trip_id: Id
    what: str


class Failed(Event):
    trip_id: Id


class Unbooked(Event):
    trip_id: Id


class Closed(Event):
    trip_id: Id


TRIPS = Context(
    name="trips",
    key="trip_id",
    commands=Book | Unbook | GiveUp,
    events=Asked | Booked | Failed | Unbooked | Closed,
)


class Trip(State):
    trip_id: str = ""
    booked: tuple[str, ...] = ()
    failed: bool = False
    unbooked: bool = False
    closed: bool = False


def remember(state: Trip, event: Asked | Booked | Failed | Unbooked | Closed) -> Trip:
    match event:
        case Asked():
            return replace(state, trip_id=event.trip_id)
        case Booked():
            return replace(state, booked=(*state.booked, event.what), unbooked=False)
        case Failed():
            return replace(state, failed=True)
        case Unbooked():
            return replace(state, unbooked=True)
        case Closed():
            return replace(state, closed=True)


def phase(state: Trip) -> Phase:
    if state.failed:
        return "compensated" if state.unbooked else "undoing"
    return "completed" if state.closed else "forward"


def book(event: Asked, _: Trip) -> list[Book]:
    return [
        Book(trip_id=event.trip_id, what="flight"),
        Book(trip_id=event.trip_id, what="hotel"),
    ]


def book_car(event: Booked, state: Trip) -> Book | None:
    if event.what == "hotel":
        return Book(trip_id=state.trip_id, what="car")
    return None


def unbook(state: Trip) -> Unbook:
    return Unbook(trip_id=state.trip_id)


def is_booked(state: Trip) -> bool:
    return not state.unbooked


def give_up(state: Trip) -> GiveUp:
    return GiveUp(trip_id=state.trip_id, why="late")


def give_up_refused(state: Trip, reason: str) -> GiveUp:
    return GiveUp(trip_id=state.trip_id, why=reason)


def is_forward(state: Trip) -> bool:
    return phase(state) == "forward"


RETRIES = Retries(attempts_max=3, pauses_s=(10.0, 20.0))

retry = DecisionRecord(
    target="d-1",
    decision="retry",
    step="",
    operator="ada",
    reason="it is mended",
    position="operations:0:1",
    at=BEGINNING + WITHIN,
)


def trip_saga(
    *,
    refused: Callable[[Trip, str], GiveUp] | None = None,
    missed: Callable[[Trip], GiveUp] | None = give_up,
) -> Saga[Trip]:
    """A trip: a branch for what is refused, and one for what is late, or none."""
    return Saga(
        name="trip",
        key="trip_id",
        contexts=[TRIPS],
        initial=Trip(),
        starts=[Asked],
        evolve=remember,
        phase=phase,
        steps=[
            on(Asked, book, answers=[Booked], refused=refused),
            on(Booked, book_car, answers=[Booked]),
        ],
        compensations=[undo(book, unbook, needed=is_booked, answers=[Unbooked], retries=RETRIES)],
        deadlines=[
            Deadline(name="trip", within=WITHIN, waiting=is_forward, missed=missed),
        ],
    )


SAGA = trip_saga()
asked = Asked(trip_id="t")
hotel = Booked(trip_id="t", what="hotel")
failed = Failed(trip_id="t")


def heard(event: Event, number: int, cause: str = "a-person") -> Heard:
    """The event that came so many seconds after the beginning."""
    at = BEGINNING + timedelta(seconds=number)
    return Heard(event, f"m-{number}", cause, "correlation", "trace", f"trips:0:{number}", at)


def after(*events: Event, saga: Saga[Trip] = SAGA) -> Reacted:
    """What the last of these events came to; one comes every second."""
    reactor = Reactor(saga, [TRIPS])
    reacted = Reacted(None, ())
    for number, event in enumerate(events, start=1):
        reacted = reactor.react(reacted.instance, heard(event, number))
    return reacted


def instance_after(*events: Event, saga: Saga[Trip] = SAGA) -> Instance[Any]:
    instance = after(*events, saga=saga).instance
    assert instance is not None, "the first event begins it"
    return instance


def of(instance: Instance[Any] | None) -> Instance[Any]:
    assert instance is not None, "an instance that has begun stays"
    return instance


def step(instance: Instance[Any] | None, name: str) -> StepRecord:
    (found, *_) = [each for each in of(instance).steps if each.step == name]
    return found


def asks(reacted: Reacted) -> list[Command]:
    return [request.command for request in reacted.requests]
