"""The workers: each bulkhead takes the work that is due, as far as its bound allows.

Nothing is lost when a process dies in between: its leases end, and others take the work. Nothing is
done twice outside, for each piece of work has a key there that never changes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from tidelog.effects.definition import (
    Attempt,
    Bulkhead,
    Effect,
    NotNow,
    WorkRefused,
)
from tidelog.effects.work_store import Work, WorkStore
from tidelog.errors import Unavailable
from tidelog.logging import get_logger
from tidelog.message import Command

POLL_S = 0.2
TROUBLE_S = 1.0
DEPTH_S = 1.0
FORGET_S = 3_600.0
FORGOTTEN_MAX = 1_000
"""Rows that are deleted at once."""

STOP_S = 5.0

log = get_logger(__name__)

_ATTEMPTS = Counter(
    "tidelog_effect_attempts_total", "Tries, by what came of them.", ["effect", "outcome"]
)
_DURATION = Histogram("tidelog_effect_attempt_seconds", "How long a try took.", ["effect"])
_DEPTH = Gauge("tidelog_effect_work", "Work that is not done yet.", ["effect", "status"])
_OLDEST = Gauge(
    "tidelog_effect_work_oldest_seconds",
    "Age of the oldest work that is not done yet.",
    ["effect", "status"],
)


class Worker:
    """Does the work of one bulkhead. `run` is a task; cancelling it gives back what it holds.

    `attempt_s` bounds one attempt, `lease_s` how long a dead worker keeps its work: longer.
    """

    def __init__(
        self, store: WorkStore, bulkhead: Bulkhead, *, attempt_s: float, lease_s: float
    ) -> None:
        assert lease_s > attempt_s, "a worker ends its attempt before its lease ends"
        self._store = store
        self._bulkhead = bulkhead
        self._effects: Mapping[str, Effect] = {each.name: each for each in bulkhead.effects}
        self._attempt_s = attempt_s
        self._lease_s = lease_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled; what is under way then may end within a bound."""
        try:
            while True:
                await self._turn()
        finally:
            await self._end()

    async def _turn(self) -> None:
        free = self._bulkhead.calls_max - len(self._tasks)
        try:
            found = (
                await self._store.claim(list(self._effects), free, self._lease_s) if free else []
            )
        except Unavailable as error:
            log.warning("effect.waits", bulkhead=self._bulkhead.name, reason=str(error))
            await asyncio.sleep(TROUBLE_S)
            return
        for work in found:
            self._tasks.add(asyncio.create_task(self._do(work)))
        if self._tasks:
            first = asyncio.FIRST_COMPLETED
            done, self._tasks = await asyncio.wait(self._tasks, timeout=POLL_S, return_when=first)
            for task in done:
                task.result()
        elif not found:
            await asyncio.sleep(POLL_S)

    async def _end(self) -> None:
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- one piece of work ------------------------------------------------------------------

    async def _do(self, work: Work) -> None:
        """Try it once and write down what came of it; where that fails, its lease ends."""
        started = time.perf_counter()
        try:
            outcome = await self._try(work)
        except Unavailable as error:
            outcome = "unwritten"
            log.warning("effect.not_written", work=work.id, reason=str(error))
        except asyncio.CancelledError:
            await self._store.postpone(work, 0, "the worker was stopped")
            raise
        _ATTEMPTS.labels(work.effect, outcome).inc()
        _DURATION.labels(work.effect).observe(time.perf_counter() - started)

    async def _try(self, work: Work) -> str:
        effect = self._effects[work.effect]
        try:
            event = msgspec.json.decode(work.data, type=effect.event)
            async with asyncio.timeout(self._attempt_s):
                command = await effect.perform(event, self._attempt(effect, work))
            return "done" if await self._store.finish(work, command) else "overtaken"
        except NotNow as error:
            pause = error.after_s * (1 + random.random() / 4)
            await self._store.postpone(work, pause, str(error))
            return "postponed"
        except WorkRefused as error:
            return await self._park(work, str(error), None, error.outcome)
        except (Unavailable, TimeoutError) as error:
            reason = str(error) or f"no end within {self._attempt_s:g} s"
            return await self._again(effect, work, reason)
        except Exception as error:  # a fault of ours: tried again, parked in the end, and loud
            log.error("effect.failed", work=work.id, exc_info=error)
            return await self._again(effect, work, f"{type(error).__name__}: {error}")

    def _attempt(self, effect: Effect, work: Work) -> Attempt:
        return Attempt(
            number=work.attempts,
            giving_up=effect.retries.is_used_up(work.attempts - 1, work.age_s),
            message_id=work.message_id,
            correlation_id=work.correlation_id,
            memo=work.memo,
            remember=partial(self._store.remember, work),
            known=self._store.known,
        )

    async def _again(self, effect: Effect, work: Work, reason: str) -> str:
        policy = effect.retries
        pause = policy.pause_after(work.attempts, random.random())
        if policy.is_used_up(work.attempts, work.age_s):
            return await self._park(work, reason, pause if policy.insists else None)
        await self._store.retry_later(work, pause, reason)
        return "unknown"

    async def _park(
        self, work: Work, reason: str, pause_s: float | None, outcome: Command | None = None
    ) -> str:
        log.error("effect.parked", work=work.id, attempts=work.attempts, reason=reason)
        await self._store.park(work, reason, pause_s, outcome)
        return "parked"


async def watch_depth(store: WorkStore, effects: Sequence[Effect]) -> None:
    """Keep the gauges of what is to be done, until cancelled."""
    while True:
        try:
            found = {(each.effect, each.status): each for each in await store.depth()}
            for effect in effects:
                for status in ("waiting", "parked"):
                    depth = found.get((effect.name, status))
                    _DEPTH.labels(effect.name, status).set(depth.rows if depth else 0)
                    _OLDEST.labels(effect.name, status).set(depth.oldest_s if depth else 0)
        except Unavailable as error:
            log.warning("effect.depth_unknown", reason=str(error))
        await asyncio.sleep(DEPTH_S)


async def forget_ended(store: WorkStore, kept_days: int) -> None:
    """Delete what ended longer ago than this, every hour, until cancelled."""
    while True:
        try:
            gone = FORGOTTEN_MAX
            while gone == FORGOTTEN_MAX:
                gone = await store.forget_ended(kept_days, FORGOTTEN_MAX)
        except Unavailable as error:
            log.warning("effect.ended_not_forgotten", reason=str(error))
        await asyncio.sleep(FORGET_S)
