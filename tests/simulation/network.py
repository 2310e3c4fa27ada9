"""Requests to the broker and the group: they take time, get lost, are answered late or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidelog.memory import LogRefusal

from .faults import REQUEST_TIMEOUT_MS, Faults
from .scheduler import Scheduler

Answer = Callable[[Any], None]


class TransportError(Exception):
    """The connection broke or nothing came back in time: nobody knows whether it was applied."""


class BrokerRefuses(LogRefusal):
    """The coordinator is loading, or the leader is elsewhere: nothing was applied."""


class Network:
    """Carries requests. The broker may refuse all of them for a while."""

    def __init__(self, scheduler: Scheduler, faults: Faults) -> None:
        self._scheduler = scheduler
        self._faults = faults
        self.refuses_until_ms = 0.0

    def request(
        self,
        name: str,
        apply: Callable[[], Any],
        later: Callable[[float, Callable[[], None]], None],
        answer: Answer,
    ) -> None:
        """Apply it at the broker; the requester gets the result, LogRefusal or TransportError.

        `later` schedules a step of the requester, which may be paused or dead by then.
        """
        scheduler, faults = self._scheduler, self._faults
        there_ms = scheduler.between(0.2, faults.latency_ms)
        roll = scheduler.random.random()
        fates = (
            (faults.lose_request, "lost"),
            (faults.lose_answer, "answer lost"),
            (faults.late_request, "late"),
            (faults.late_answer, "answer late"),
        )
        fate = ""
        for probability, kind in fates:
            if roll < probability:
                fate = kind
                break
            roll -= probability
        if fate and scheduler.tracing:
            scheduler.note("network", f"{name}: {fate}")
        if fate == "late":
            there_ms = scheduler.between(0.3, 5) * REQUEST_TIMEOUT_MS
        if fate in ("lost", "late", "answer lost"):
            error = TransportError(name)
            later(REQUEST_TIMEOUT_MS, lambda: answer(error))
        if fate == "lost":
            return

        def arrive() -> None:
            try:
                result = self._applied(apply)
            except LogRefusal as refusal:
                result = refusal
            if scheduler.tracing:
                scheduler.note("broker", f"{name} -> {result!r}")
            if fate in ("", "answer late"):
                back_ms = scheduler.between(0.2, faults.latency_ms if fate == "" else 300.0)
                later(back_ms, lambda: answer(result))

        scheduler.after(there_ms, arrive)

    def _applied(self, apply: Callable[[], Any]) -> Any:
        if self._scheduler.now_ms < self.refuses_until_ms:
            raise BrokerRefuses("not now")
        return apply()
