"""The read side under load while what it stands on is killed, locked and cut, again and again.

Projectors, PostgreSQL and Kafka are killed in turn; clients send commands, readers hold the answers
of the queries against one another, positions are watched commit by commit. At the end every read
model must be at the end of the log and equal to its fold, and the log must hold what was promised.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.torture.checker import check_log
from tests.torture.log_reader import LogReader
from tests.torture.read_side_faults import KILLED, Faults
from tests.torture.read_side_load import Load, place_order
from tests.torture.read_side_positions import Positions
from tests.torture.read_side_readers import Readers, Seen

CONTEXTS = ("orders", "inventory")
PAUSE_S = (0.3, 2.0)
KILLS_BETWEEN_OTHERS = 10
RECOVERY_TIMEOUT_S = 120.0
CATCH_UP_TIMEOUT_S = 180.0
VERIFY_TIMEOUT_S = 3_600.0
LOOK_S = 0.1


@dataclass
class Result:
    """What a run has seen."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KILLED, 0))
    others: int = 0
    acknowledged: int = 0
    refusals: int = 0
    retries: int = 0
    events: int = 0
    outages_s: dict[str, list[float]] = field(default_factory=lambda: {n: [] for n in KILLED})
    samples: int = 0
    moved_back: int = 0
    moved_back_max: int = 0
    seen: Seen = field(default_factory=Seen)
    verified: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class ReadSideRun:
    """One run against the system that `dev_file` describes."""

    dev_file: Path
    seed: int
    kills: int
    clients: int
    rate: float
    with_others: bool = True
    result: Result = field(default_factory=Result)

    async def play(self) -> Result:
        """Load, readers and faults side by side; then everything is checked."""
        dev = self._dev()
        commands = httpx.AsyncClient(base_url=dev["gateway"]["url"], trust_env=False)
        queries = httpx.AsyncClient(base_url=dev["query"]["url"], trust_env=False)
        positions = Positions(dev["postgres"]["dsn"])
        async with commands, queries:
            load = Load(self.seed, self.clients, self.rate, commands)
            readers = Readers(self.seed, load, queries)
            faults = Faults(self.dev_file, positions, queries)
            await self._under_load(load, readers, faults)
            self.result.faults += await caught_up(queries)
        await asyncio.to_thread(positions.stop)
        self._take_in(load, readers, faults)
        await asyncio.to_thread(self._check, load)
        return self.result

    async def _under_load(self, load: Load, readers: Readers, faults: Faults) -> None:
        faults.positions.start()
        tasks = [asyncio.create_task(load.run()), asyncio.create_task(readers.run())]
        try:
            await self._do(load, readers, faults)
        finally:
            load.stopping = True
            await asyncio.wait_for(tasks[0], RECOVERY_TIMEOUT_S)
            readers.stopping = True
            await tasks[1]

    async def _do(self, load: Load, readers: Readers, faults: Faults) -> None:
        """The faults, one after the other; after each the read side must come back by itself."""
        chance = random.Random(self.seed)
        others = faults.others()
        for number in range(self.kills):
            name = KILLED[number % len(KILLED)]
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            began = time.monotonic()
            await faults.kill(name)
            self.result.kills[name] += 1
            await self._recovered(f"kill-{number}", load, readers)
            outage_s = time.monotonic() - began
            self.result.outages_s[name].append(outage_s)
            done = f"kill {number + 1} of {self.kills}: {name}, back after {outage_s:.1f} s"
            print(done, file=sys.stderr, flush=True)
            if self.with_others and number % KILLS_BETWEEN_OTHERS == KILLS_BETWEEN_OTHERS - 1:
                await others[self.result.others % len(others)]()
                self.result.others += 1
                await self._recovered(f"other-{number}", load, readers)

    async def _recovered(self, name: str, load: Load, readers: Readers) -> None:
        """Until a new order and new stock are acknowledged, and seen by their tokens."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        name = f"{self.seed}-{name}"
        order = await load.send(*place_order(name, random.Random(name)), f"key-{name}")
        stock = await load.send(
            "/inventory/sku-0/receive-stock", {"quantity": 1}, f"key-stock-{name}"
        )
        for told in (order, stock):
            assert told is not None, "a new order and new stock are never refused"
            while not await readers.read_own_write(told):
                if time.monotonic() > deadline:
                    self.result.faults.append(f"{told.token} was not seen after {name}")
                    return
                await asyncio.sleep(LOOK_S)

    def _take_in(self, load: Load, readers: Readers, faults: Faults) -> None:
        result, moved = self.result, faults.positions.moved_back
        result.acknowledged = len(load.answers)
        result.refusals, result.retries = load.refusals, load.retries
        result.seen = readers.seen
        result.samples = faults.positions.samples
        result.moved_back = len(moved)
        result.moved_back_max = max((each.before - each.after for each in moved), default=0)
        result.faults += readers.seen.faults
        result.faults += faults.faults
        result.faults += [f"moved back without a crash: {each}" for each in moved if not each.crash]

    def _check(self, load: Load) -> None:
        self.result.events, faults = check_whole_log(self._dev(), load.answers)
        self.result.verified, different = check_read_models(self.dev_file)
        self.result.faults += [*faults, *different]

    def _dev(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.dev_file.read_text())
        return found


async def caught_up(queries: httpx.AsyncClient, timeout_s: float = CATCH_UP_TIMEOUT_S) -> list[str]:
    """Wait until every read model that serves is at the end of the log; what is not in time."""
    deadline = time.monotonic() + timeout_s
    behind: Any = "the queries do not answer"
    while time.monotonic() < deadline:
        try:
            answer = await queries.get("/projections", timeout=15)
        except httpx.HTTPError:
            continue
        if answer.status_code == 200:
            serving = [item for item in answer.json()["items"] if item["serving"]]
            behind = [item for item in serving if item["lag"] or item["status"] != "live"]
            if serving and not behind:
                return []
        await asyncio.sleep(LOOK_S)
    return [f"not caught up in {timeout_s} s: {behind}"]


def check_whole_log(
    dev: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> tuple[int, list[str]]:
    """How many events the log holds, and what is lost, doubled or out of order in it."""
    reader = LogReader(dev["kafka"]["bootstrap_servers"], dev["registry"]["url"])
    records = [record for context in CONTEXTS for record in reader.read(f"{context}.events")]
    return len(records), check_log(records, answers)


def check_read_models(dev_file: Path) -> tuple[list[str], list[str]]:
    """The read models that are the fold of the log, and what is wrong with the others."""
    proofs = verify(dev_file)
    if not proofs:
        return [], ["no read model was verified"]
    equal = [proof["projection"] for proof in proofs if proof["equal"]]
    return equal, [f"differs: {proof}" for proof in proofs if not proof["equal"]]


def verify(dev_file: Path) -> list[dict[str, Any]]:
    """What `tidelog projection verify --all` finds."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tidelog.cli", "projection", "verify", "--all"),
            *("--json", "--dev", str(dev_file)),
        ],
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_S,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"verify ended with {done.returncode}: {done.stderr[-2_000:]}")
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def describe(result: Result) -> str:
    """The figures of a run, a line each."""
    seen = result.seen
    outages = ", ".join(
        f"{name} {result.kills[name]} (back after {statistics.median(times):.1f} s, "
        f"at worst {max(times):.1f} s)"
        for name, times in result.outages_s.items()
        if times
    )
    answered = f"{seen.answers} answered, {seen.token_reads} of them with the token of a write"
    return f"""\
kills: {outages}; other faults: {result.others}
commands: {result.acknowledged} acknowledged with events, {result.refusals} refused, \
{result.retries} retries; {result.events} events in the log
reads: {answered}, {seen.busy} not answered yet
positions: {result.samples} samples; went back {result.moved_back} times, by \
{result.moved_back_max} events at most; readers without a token saw that {seen.went_back} times, \
by {seen.events_back_max} events at most
verified equal: {", ".join(result.verified)}
{len(result.faults)} faults"""
