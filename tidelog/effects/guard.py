"""What stands before a system outside: a breaker, and counts of what comes of the calls."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Counter, Gauge

from tidelog.breaker import BreakerOptions, CircuitBreaker, State
from tidelog.effects.definition import NoAnswer, NotNow, RetryPolicy
from tidelog.logging import get_logger
from tidelog.settings import Settings

RETRY_AFTER_S_MIN = 0.1

Found = TypeVar("Found")

log = get_logger(__name__)

_STATES: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}
_BREAKER = Gauge(
    "tidelog_breaker_state", "0 closed, 1 half-open, 2 open: calls are refused.", ["dependency"]
)
_OPENED = Counter("tidelog_breaker_opened_total", "How often a breaker opened.", ["dependency"])
_CALLS = Counter(
    "tidelog_dependency_calls_total", "Calls, by what came of them.", ["dependency", "outcome"]
)


def breaker_options(settings: Settings) -> BreakerOptions:
    """When the breakers of this process open, and for how long."""
    return BreakerOptions(
        window_s=settings.breaker_window_ms / 1000,
        calls_min=settings.breaker_calls_min,
        failure_share=settings.breaker_failure_share,
        open_s=settings.breaker_open_ms / 1000,
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    """How this process tries its work again; what is used up goes on slowly, and is told."""
    return RetryPolicy(
        attempts_max=settings.effect_attempts_max,
        pause_s=settings.effect_pause_ms / 1000,
        give_up_s=settings.effect_give_up_ms / 1000,
        insists=True,
    )


class Guard:
    """Lets calls to one dependency pass, or not. One event loop uses it."""

    def __init__(self, name: str, breaker: BreakerOptions | None = None) -> None:
        self.name = name
        options = breaker or BreakerOptions()
        self._breaker = CircuitBreaker(name, options, time.monotonic, _changed)
        _BREAKER.labels(name).set(0)

    async def call(self, ask: Callable[[], Awaitable[Found]]) -> Found:
        """Ask, once. NotNow: the breaker is open. What `ask` raises as NoAnswer is a failure.

        Whatever it returns is an answer, also one that says no.
        """
        if not self._breaker.allow():
            _CALLS.labels(self.name, "refused").inc()
            raise NotNow(self.name, max(self._breaker.retry_after_s(), RETRY_AFTER_S_MIN))
        try:
            found = await ask()
        except NoAnswer:
            self._breaker.failed()
            _CALLS.labels(self.name, "failed").inc()
            raise
        except BaseException:
            self._breaker.left()  # we were told to stop: it says nothing about the other side
            raise
        self._breaker.succeeded()
        _CALLS.labels(self.name, "answered").inc()
        return found


def _changed(name: str, state: State) -> None:
    _BREAKER.labels(name).set(_STATES[state])
    if state == "open":
        _OPENED.labels(name).inc()
    log.warning("breaker.changed", dependency=name, state=state)
