"""The payment provider is down for minutes under a trickle of orders.

It is stopped, not ended: it takes connections and never answers, and when it comes back it works
off what it was sent long ago. The breaker must open, nothing may be lost or charged twice, and
every order must end after its return.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx

from tests.torture.checker import check_log
from tests.torture.saga_checker import check, orders_of
from tests.torture.saga_faults import System
from tests.torture.saga_load import Addresses, Customers, Fate
from tests.torture.saga_run import (
    check_monitor,
    confirmed_after,
    gather,
    quantile,
    settled,
)

DOWN = "payment_provider"
OPEN, CLOSED = 2, 0
LOOK_S = 0.25
BEFORE_S, AFTER_S = 10.0, 15.0
FATES: tuple[tuple[Fate, float], ...] = (("buys", 0.8), ("cancels", 0.2))


@dataclass
class Result:
    """What a run has seen; the seconds of the breaker count from the stop and from the return."""

    placed: int = 0
    placed_while_down: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    opened_after_s: float | None = None
    closed_after_s: float | None = None
    opened: int = 0
    waiting_max: int = 0
    settled_s: float = 0.0
    confirmed_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class Breaker:
    """Watches the breaker, and the work that waits, in the metrics of the effects."""

    url: str
    http: httpx.AsyncClient
    states: list[tuple[float, float]] = field(default_factory=list)
    opened: int = 0
    waiting_max: int = 0
    stopping: bool = False

    async def watch(self) -> None:
        """Look again and again, until told to stop."""
        while not self.stopping:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """One look; none where the process does not answer."""
        try:
            answer = await self.http.get(f"{self.url}/metrics", timeout=5)
        except httpx.HTTPError:
            return
        found = samples(answer.text)
        name = f'{{dependency="{DOWN}"}}'
        self.states.append((time.monotonic(), found.get(f"tidelog_breaker_state{name}", -1)))
        self.opened = int(found.get(f"tidelog_breaker_opened_total{name}", 0))
        waiting = sum(value for key, value in found.items() if key.startswith(WAITING))
        self.waiting_max = max(self.waiting_max, int(waiting))

    def first(self, state: int, since: float) -> float | None:
        """So many seconds later it was first seen so; None: never."""
        times = [at for at, seen in self.states if at >= since and seen == state]
        return times[0] - since if times else None


WAITING = "tidelog_effect_work{"


def samples(text: str) -> Mapping[str, float]:
    """The values of a page of metrics, by name and labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines if name}


@dataclass
class OutageRun:
    """One run against the system that `dev_file` describes."""

    dev_file: Path
    seed: int
    rate: float
    outage_s: float
    bound_s: float
    result: Result = field(default_factory=Result)

    async def play(self) -> Result:
        """Orders before, while it is down, and after; then everything must end and balance."""
        system = System(self.dev_file)
        async with httpx.AsyncClient(trust_env=False) as http:
            customers = self._customers(system, http)
            await customers.fill_the_shelves()
            breaker = Breaker(system.process_url("effects"), http)
            watching = asyncio.create_task(breaker.watch())
            shopping = asyncio.create_task(customers.run())
            back_at = await self._down(system, customers, breaker)
            await shopping
            self.result.faults += await settled(system, self.bound_s)
            self.result.settled_s = time.monotonic() - back_at
            breaker.stopping = True
            await watching
            await self._check(system, customers, http)
        self.judge(breaker, back_at)
        return self.result

    def _customers(self, system: System, http: httpx.AsyncClient) -> Customers:
        addresses = Addresses(
            gateway=system.url("gateway"), query=system.url("query"), carrier=system.url("carrier")
        )
        orders = int(self.rate * (BEFORE_S + self.outage_s + AFTER_S))
        return Customers(self.seed, orders, self.rate, self.bound_s, addresses, http, fates=FATES)

    async def _down(self, system: System, customers: Customers, breaker: Breaker) -> float:
        """Stop the provider for a while; the moment of its return."""
        await asyncio.sleep(BEFORE_S)
        pid, before = system.pid(DOWN), len(customers.placed)
        os.killpg(pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        try:
            await asyncio.sleep(self.outage_s)
        finally:
            os.killpg(pid, signal.SIGCONT)
        self.result.placed_while_down = len(customers.placed) - before
        self.result.opened_after_s = breaker.first(OPEN, stopped_at)
        return time.monotonic()

    async def _check(self, system: System, customers: Customers, http: httpx.AsyncClient) -> None:
        evidence = await gather(system, customers, self.bound_s, http)
        result = self.result
        result.placed = len(customers.placed)
        result.ended = Counter(order.status for order in orders_of(evidence.records).values())
        result.confirmed_s = confirmed_after(evidence.records)
        result.faults += await check_monitor(system, evidence.instances, http)
        result.faults += [*customers.faults, *check(evidence)]
        result.faults += check_log(evidence.records, customers.answers)

    def judge(self, breaker: Breaker, back_at: float) -> None:
        """What the breaker did, and whether it did what it is for."""
        result = self.result
        result.opened, result.waiting_max = breaker.opened, breaker.waiting_max
        result.closed_after_s = breaker.first(CLOSED, back_at)
        if result.opened_after_s is None:
            result.faults.append(f"the breaker never opened in {self.outage_s} s")
        if breaker.states[-1][1] != CLOSED:
            result.faults.append(f"the breaker is not closed in the end: {breaker.states[-1][1]}")


def describe(result: Result) -> str:
    """The figures of a run, a line each."""
    ended = ", ".join(f"{count} {status}" for status, count in sorted(result.ended.items()))
    times = result.confirmed_s
    return f"""\
orders: {result.placed} placed and acknowledged, {result.placed_while_down} of them while the \
provider was down
ended: {ended}
breaker: opened {_seconds(result.opened_after_s)} after the stop, {result.opened} times in all; \
closed {_seconds(result.closed_after_s)} after the return
work that waited: {result.waiting_max} pieces at most; all came to rest \
{_seconds(result.settled_s)} after the return
placed to confirmed: {len(times)} orders, p50 {quantile(times, 0.5):.2f} s, \
at worst {quantile(times, 1):.2f} s
{len(result.faults)} faults"""


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
