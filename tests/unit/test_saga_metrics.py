"""What is counted of a saga: beginnings and ends, and what becomes of each step."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from prometheus_client import REGISTRY

from tests.trip_saga import (
    BEGINNING,
    SAGA,
    TRIPS,
    Closed,
    asked,
    failed,
    hotel,
    instance_after,
    of,
    retry,
)
from tidelog.engine.deciding import decide
from tidelog.engine.reacting import Heard, Reactor
from tidelog.saga_metrics import SagaMetrics

REACTOR = Reactor(SAGA, [TRIPS])


def counted(name: str, **labels: str) -> float:
    """The value of a metric of this test's saga."""
    return REGISTRY.get_sample_value(f"tidelog_saga_{name}", labels) or 0.0


@pytest.fixture
def metrics(request: pytest.FixtureRequest) -> SagaMetrics:
    """Metrics of a saga that is named like the test, so that no other test counts for it."""
    return SagaMetrics(request.node.name)


def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def test_a_beginning_is_counted_with_its_steps(
    metrics: SagaMetrics, request: pytest.FixtureRequest
) -> None:
    begun = instance_after(asked)
    metrics.changed(None, begun)
    metrics.changed(begun, begun)

    saga = name(request)
    assert counted("instances_total", saga=saga, became="started") == 1
    assert counted("steps_total", saga=saga, step="book", became="pending") == 2


def test_an_end_is_counted_once_with_how_long_it_took(
    metrics: SagaMetrics, request: pytest.FixtureRequest
) -> None:
    begun = instance_after(asked)
    at = begun.started_at + timedelta(seconds=40)
    end = REACTOR.react(begun, Heard(Closed(trip_id="t"), "m", "c", "c", "", "trips:0:9", at))
    ended = of(end.instance)
    late = of(REACTOR.react(ended, Heard(hotel, "m2", "c", "c", "", "trips:0:10", at)).instance)
    metrics.changed(begun, ended)
    metrics.changed(ended, late)

    saga = name(request)
    assert counted("instances_total", saga=saga, became="completed") == 1
    assert counted("duration_seconds_sum", saga=saga, end="completed") == 40
    assert counted("steps_total", saga=saga, step="book", became="skipped") == 2


def test_sticking_is_counted_once_however_often_it_was_tried(
    metrics: SagaMetrics, request: pytest.FixtureRequest
) -> None:
    instance = instance_after(asked, failed)
    metrics.changed(None, instance)
    while not instance.stuck:
        again = of(REACTOR.remind(instance, instance.due["again:unbook"]).instance)
        metrics.changed(instance, again)
        instance = again
    metrics.changed(instance, msgspec.structs.replace(instance, updated_at=BEGINNING))
    retried = of(decide(REACTOR, instance, retry).instance)
    metrics.changed(instance, retried)

    saga = name(request)
    assert counted("steps_total", saga=saga, step="unbook", became="pending") == 1
    assert counted("instances_total", saga=saga, became="stuck") == 1


def test_every_command_that_is_asked_for_is_counted(
    metrics: SagaMetrics, request: pytest.FixtureRequest
) -> None:
    metrics.asked("book")
    metrics.asked("book")

    assert counted("attempts_total", saga=name(request), step="book") == 2


def test_a_reaction_that_fails_is_counted(
    metrics: SagaMetrics, request: pytest.FixtureRequest
) -> None:
    metrics.parked()

    assert counted("instances_total", saga=name(request), became="parked") == 1
