"""The circuit breaker: when it opens, whom it lets try, when it closes."""

from __future__ import annotations

import pytest

from tidelog.breaker import BreakerOptions, CircuitBreaker, State


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


OPTIONS = BreakerOptions(window_s=30, calls_min=4, failure_share=0.5, open_s=10, trials_max=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard() -> list[State]:
    return []


@pytest.fixture
def breaker(clock: Clock, heard: list[State]) -> CircuitBreaker:
    return CircuitBreaker("provider", OPTIONS, clock, lambda _, state: heard.append(state))


def call(breaker: CircuitBreaker, *outcomes: bool) -> None:
    for succeeds in outcomes:
        assert breaker.allow()
        (breaker.succeeded if succeeds else breaker.failed)()


def test_it_opens_when_half_of_the_calls_fail(breaker: CircuitBreaker, heard: list[State]) -> None:
    call(breaker, True, True, False)
    assert breaker.state == "closed"

    call(breaker, False)

    assert (breaker.state, breaker.allow(), heard) == ("open", False, ["open"])


def test_too_few_calls_open_nothing(breaker: CircuitBreaker) -> None:
    call(breaker, False, False, False)

    assert breaker.state == "closed"


def test_old_calls_are_forgotten(breaker: CircuitBreaker, clock: Clock) -> None:
    call(breaker, False, False, False)
    clock.seconds += 30

    call(breaker, False, True, True)

    assert breaker.state == "closed"


def test_one_call_may_try_after_a_while_and_its_success_closes(
    breaker: CircuitBreaker, clock: Clock, heard: list[State]
) -> None:
    call(breaker, False, False, False, False)
    clock.seconds += 9.9
    assert not breaker.allow() and breaker.retry_after_s() == pytest.approx(0.1)

    clock.seconds += 0.1

    assert breaker.allow() and not breaker.allow()
    breaker.succeeded()
    assert (breaker.state, heard) == ("closed", ["open", "half-open", "closed"])


def test_a_try_that_fails_opens_it_for_the_whole_time_again(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    call(breaker, False, False, False, False)
    clock.seconds += 10
    call(breaker, False)

    assert breaker.retry_after_s() == 10


def test_a_try_that_was_given_up_leaves_room_for_the_next(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    call(breaker, False, False, False, False)
    clock.seconds += 10
    assert breaker.allow()

    breaker.left()

    assert breaker.allow()


def test_failures_of_calls_that_began_before_it_opened_do_not_prolong_it_for_ever(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    assert all(breaker.allow() for _ in range(6))
    for _ in range(4):
        breaker.failed()
    clock.seconds += 5

    breaker.failed()

    assert breaker.retry_after_s() == 5
