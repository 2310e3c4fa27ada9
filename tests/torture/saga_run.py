"""Sagas on the real stack while their processes are killed and the world outside misbehaves.

In the end every order stands or is undone; stock, money and parcels balance in our books and in
those of the provider and the carriers; the monitor says just that.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg

from tests.torture.checker import check_log
from tests.torture.log_reader import LogReader, LogRecord
from tests.torture.read_side import caught_up, check_read_models
from tests.torture.saga_checker import ENDS, Entry, Evidence, check, orders_of
from tests.torture.saga_faults import Kills, Moods, System
from tests.torture.saga_load import Addresses, Customers, until

CONTEXTS = ("orders", "inventory", "payments", "shipping", "returns", "notifications")
LOOK_S = 0.5
QUIET_LOOKS = 6
"""So often in a row nothing may be under way before it counts as settled: a last answer may undo
an end again."""

_UNDER_WAY = {
    "running sagas": "SELECT count(*) FROM saga_instances "
    "WHERE phase IS NOT NULL AND ended_at IS NULL",
    "parked sagas": "SELECT count(*) FROM saga_parked",
    "held events": "SELECT count(*) FROM saga_held",
    "commands in the outbox": "SELECT count(*) FROM saga_outbox",
    "effects to be done": "SELECT count(*) FROM effect_work",
}
_LEFT = (
    "SELECT subject, effect, status, attempts, error FROM effect_work ORDER BY since LIMIT 20",
    "SELECT key, saga, 'parked', attempts, error FROM saga_parked LIMIT 20",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is made of. `bound_s` is how long an order may take to its end."""

    seed: int
    orders: int
    rate: float
    failures: float
    kills: int
    postgres_kills: int
    kafka_kills: int
    bound_s: float


@dataclass
class Result:
    """What a run has seen."""

    kills: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    events: int = 0
    placed: int = 0
    returns: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    confirmed_s: list[float] = field(default_factory=list)
    load_s: float = 0.0
    settled_s: float = 0.0
    kept: int = 0
    captured: int = 0
    refunded: int = 0
    verified: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class SagaRun:
    """One run against the system that `dev_file` describes."""

    dev_file: Path
    plan: Plan
    result: Result = field(default_factory=Result)

    async def play(self) -> Result:
        """Customers, kills and moods side by side; then all comes to rest and is checked."""
        system = System(self.dev_file)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, limits=limits) as http:
            customers = customers_of(system, self.plan, http)
            await customers.fill_the_shelves()
            await self._under_load(system, customers, http)
            await self._settle(system)
            queries = httpx.AsyncClient(base_url=system.url("query"), trust_env=False)
            async with queries:
                self.result.faults += await caught_up(queries)
            evidence = await gather(system, customers, self.plan.bound_s, http)
            self.result.faults += await check_monitor(system, evidence.instances, http)
        self._take_in(customers, evidence)
        self.result.faults += [*customers.faults, *check(evidence)]
        self.result.faults += check_log(evidence.records, customers.answers)
        self.result.verified, different = await asyncio.to_thread(check_read_models, self.dev_file)
        self.result.faults += different
        return self.result

    async def _under_load(
        self, system: System, customers: Customers, http: httpx.AsyncClient
    ) -> None:
        plan, began = self.plan, time.monotonic()
        kills = Kills(system, plan.seed, plan.kills, plan.postgres_kills, plan.kafka_kills)
        moods = Moods(system, plan.seed, plan.failures, http)
        misbehaving = asyncio.create_task(moods.run())
        try:
            await asyncio.gather(customers.run(), kills.run())
        finally:
            moods.stopping = True
            await misbehaving
        self.result.kills = kills.done
        self.result.load_s = time.monotonic() - began

    async def _settle(self, system: System) -> None:
        began = time.monotonic()
        left = await settled(system, self.plan.bound_s)
        self.result.settled_s = time.monotonic() - began
        self.result.faults += left

    def _take_in(self, customers: Customers, evidence: Evidence) -> None:
        result = self.result
        result.retries = customers.retries
        result.events = len(evidence.records)
        result.placed, result.returns = len(customers.placed), len(customers.returns)
        result.ended = Counter(f"{item['saga']} {item['status']}" for item in evidence.instances)
        result.confirmed_s = confirmed_after(evidence.records)
        money = Counter[str]()
        for entry in evidence.provider:
            money[entry["kind"]] += entry["amount"]
        result.captured, result.refunded = money["capture"], money["refund"]
        result.kept = sum(order.owed for order in orders_of(evidence.records).values())


def customers_of(system: System, plan: Plan, http: httpx.AsyncClient) -> Customers:
    """The customers of a run."""
    addresses = Addresses(
        gateway=system.url("gateway"), query=system.url("query"), carrier=system.url("carrier")
    )
    return Customers(plan.seed, plan.orders, plan.rate, plan.bound_s, addresses, http)


async def settled(system: System, seconds: float) -> list[str]:
    """Wait until nothing is under way any more; what still is."""
    quiet = 0
    found: dict[str, int] = {}

    async def look() -> bool:
        nonlocal quiet, found
        found = await asyncio.to_thread(under_way, system)
        quiet = 0 if any(found.values()) else quiet + 1
        return quiet >= QUIET_LOOKS

    if await until(look, seconds, LOOK_S):
        return []
    rows = await asyncio.to_thread(_left, system)
    told = [f"{row[0]}: {row[1]} {row[2]} after {row[3]} attempts: {row[4]}" for row in rows]
    return [f"not settled in {seconds} s: {found}", *told]


def under_way(system: System) -> dict[str, int]:
    """How much is not done yet, by kind."""
    try:
        with psycopg.connect(system.dev()["postgres"]["dsn"], connect_timeout=5) as connection:
            return {
                name: int(connection.execute(text.encode()).fetchall()[0][0])
                for name, text in _UNDER_WAY.items()
            }
    except psycopg.OperationalError:
        return {"PostgreSQL does not answer": 1}


def _left(system: System) -> list[tuple[Any, ...]]:
    with psycopg.connect(system.dev()["postgres"]["dsn"], connect_timeout=5) as connection:
        return [row for text in _LEFT for row in connection.execute(text.encode()).fetchall()]


async def gather(
    system: System, customers: Customers, bound_s: float, http: httpx.AsyncClient
) -> Evidence:
    """Everything that the checker wants to see."""
    dev = system.dev()
    reader = LogReader(dev["kafka"]["bootstrap_servers"], dev["registry"]["url"])
    records = await asyncio.to_thread(
        lambda: [record for context in CONTEXTS for record in reader.read(f"{context}.events")]
    )
    ledgers = [
        (await http.get(f"{system.url(name)}/ledger", timeout=30)).raise_for_status().json()
        for name in ("payment_provider", "carrier")
    ]
    mails = await http.get(f"{system.url('mail')}/messages", timeout=30)
    return Evidence(
        records=records,
        placed=[*customers.placed],
        returns=customers.returns,
        provider=ledgers[0],
        carrier=ledgers[1],
        mails=mails.raise_for_status().json(),
        instances=await listed(system, http),
        bound_s=bound_s,
    )


async def check_monitor(
    system: System, shown: Sequence[Entry], http: httpx.AsyncClient
) -> list[str]:
    """What began is what ended, and the monitor asked by status shows what it shows in all."""
    by_status = Counter(item["status"] for item in shown)
    faults = []
    for status in ("running", "stuck", *sorted(ENDS)):
        found = len(await listed(system, http, status=status))
        if found != by_status[status]:
            faults.append(
                f"the monitor shows {found} {status}, and {by_status[status]} in its list"
            )
    if sum(by_status[end] for end in ENDS) != len(shown):
        faults.append(f"{len(shown)} instances began, and ended: {dict(by_status)}")
    return faults


async def listed(system: System, http: httpx.AsyncClient, **asked: str) -> list[dict[str, Any]]:
    """The whole of `GET /sagas`."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = {**asked, "limit": "200", **({"cursor": cursor} if cursor else {})}
        answer = await http.get(f"{system.url('query')}/sagas", params=page, timeout=30)
        body = answer.raise_for_status().json()
        items += body["items"]
        cursor = body["next_cursor"]
        if not cursor:
            return items


def confirmed_after(records: Sequence[LogRecord]) -> list[float]:
    """Seconds from each OrderPlaced to its OrderConfirmed, by the times of the log, in order."""
    placed: dict[str, datetime] = {}
    found = []
    for record in records:
        name = record.headers["ce_type"].rsplit(".", 1)[1]
        at = datetime.fromisoformat(record.headers["ce_time"])
        if name == "OrderPlaced":
            placed[record.key] = at
        elif name == "OrderConfirmed":
            found.append((at - placed[record.key]).total_seconds())
    return sorted(found)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which the given share lies; 0 where there is none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def describe(result: Result) -> str:
    """The figures of a run, a line each."""
    kills = ", ".join(f"{name} {count}" for name, count in sorted(result.kills.items()))
    ended = ", ".join(f"{count} {name}" for name, count in sorted(result.ended.items()))
    times = result.confirmed_s
    return f"""\
kills: {sum(result.kills.values())} ({kills})
orders: {result.placed} placed and acknowledged, {result.returns} returns, {result.retries} \
retries of customers, {result.events} events in the log
ended: {ended}
placed to confirmed: {len(times)} orders, p50 {quantile(times, 0.5):.2f} s, \
p99 {quantile(times, 0.99):.2f} s, at worst {quantile(times, 1):.2f} s
load and kills took {result.load_s:.0f} s, then all came to rest in {result.settled_s:.0f} s
money at the provider: {result.captured} taken, {result.refunded} paid back, \
{result.captured - result.refunded} kept; the orders owe {result.kept}
verified equal: {", ".join(result.verified)}
{len(result.faults)} faults"""
