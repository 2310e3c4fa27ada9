"""The word with which every test starts."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from tidelog.aggregate import Aggregate
from tidelog.message import Command, Event, Row, State
from tidelog.projection import Projection
from tidelog.saga import Saga
from tidelog.testing._aggregates import GivenAggregate
from tidelog.testing._projections import GivenProjection
from tidelog.testing._sagas import GivenSaga

C = TypeVar("C", bound=Command)
S = TypeVar("S", bound=State)
E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=Row)


@overload
def given(definition: Aggregate[C, S, E], *history: E) -> GivenAggregate[C, S, E]: ...


@overload
def given(definition: Projection[R, E], *history: E) -> GivenProjection[R, E]: ...


@overload
def given(definition: Saga[S], *history: Event) -> GivenSaga[S]: ...


def given(
    definition: Aggregate[Any, Any, Any] | Projection[Any, Any] | Saga[Any], *history: Event
) -> GivenAggregate[Any, Any, Any] | GivenProjection[Any, Any] | GivenSaga[Any]:
    """What has happened so far: an aggregate's own events, or those that others hear."""
    if isinstance(definition, Saga):
        return GivenSaga(definition, history)
    if isinstance(definition, Aggregate):
        return GivenAggregate(definition, history)
    return GivenProjection(definition, history)
