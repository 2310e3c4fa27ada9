"""SIGKILL of the command service, again and again, under load from clients that retry.

Every client sends commands with keys of its own and repeats each until it has an answer. At the end
the log is read by an independent consumer and held against all answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.torture.checker import check_log
from tests.torture.log_reader import LogReader
from tests.torture.read_side_load import SHIP_TO

RETRY_S = 0.05
ATTEMPT_TIMEOUT_S = 15.0
KILL_PAUSE_S = (0.5, 4.0)
CONTEXTS = ("orders", "inventory")


@dataclass
class Result:
    """What a run has seen."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    refusals: int = 0
    retries: int = 0
    replays: int = 0
    kills: int = 0
    outages_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    events: int = 0


@dataclass
class Run:
    """One run against the system that `dev_file` describes."""

    dev_file: Path
    seed: int
    kills: int
    clients: int
    result: Result = field(default_factory=Result)
    stopping: bool = False
    last_ack: float = 0.0

    def dev(self) -> dict[str, Any]:
        """The system's description, read anew: processes change their ids."""
        found: dict[str, Any] = json.loads(self.dev_file.read_text())
        return found

    async def play(self) -> Result:
        """Load and kills side by side; then the log is checked."""
        url = self.dev()["gateway"]["url"]
        limits = httpx.Limits(max_connections=self.clients)
        async with httpx.AsyncClient(base_url=url, limits=limits) as http:
            tasks = [
                asyncio.create_task(self._client(http, number)) for number in range(self.clients)
            ]
            await self._kill_again_and_again()
            self.stopping = True
            await asyncio.gather(*tasks)
        self._check()
        return self.result

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        count = 0
        while not self.stopping:
            count += 1
            await self._command(http, f"{self.seed}-{number}-{count}", chance)

    async def _command(self, http: httpx.AsyncClient, name: str, chance: random.Random) -> None:
        """One command, repeated with the same key until it is answered."""
        path, body = any_command(name, chance)
        headers = {"Idempotency-Key": f"key-{name}"}
        while True:
            try:
                answer = await http.post(
                    path, json=body, headers=headers, timeout=ATTEMPT_TIMEOUT_S
                )
            except httpx.HTTPError:
                status = 0
            else:
                status = answer.status_code
            if status in (200, 201):
                self._acknowledged(answer.json())
                return
            if 400 <= status < 500:
                self.result.refusals += 1
                return
            self.result.retries += 1
            await asyncio.sleep(RETRY_S)

    def _acknowledged(self, answer: dict[str, Any]) -> None:
        self.last_ack = time.monotonic()
        self.result.replays += answer["replayed"]
        if answer["events"]:
            self.result.answers.append(answer)

    async def _kill_again_and_again(self) -> None:
        chance = random.Random(self.seed)
        for _ in range(self.kills):
            await asyncio.sleep(chance.uniform(*KILL_PAUSE_S))
            killed_at = await self._kill_one(chance)
            self.result.kills += 1
            while self.last_ack < killed_at:
                await asyncio.sleep(0.02)
            self.result.outages_s.append(self.last_ack - killed_at)
        await asyncio.sleep(1.0)

    async def _kill_one(self, chance: random.Random) -> float:
        while True:
            running = [
                process["pid"]
                for process in self.dev()["processes"]
                if process["name"] == "command_service" and process["pid"]
            ]
            try:
                os.kill(chance.choice(running), signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                await asyncio.sleep(0.1)
            else:
                return time.monotonic()

    def _check(self) -> None:
        dev = self.dev()
        reader = LogReader(dev["kafka"]["bootstrap_servers"], dev["registry"]["url"])
        records = [record for context in CONTEXTS for record in reader.read(f"{context}.events")]
        self.result.events = len(records)
        self.result.faults = check_log(records, self.result.answers)


def any_command(name: str, chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body: a new order, or goods for one of a few items."""
    if chance.random() < 0.3:
        sku = f"sku-{chance.randrange(20)}"
        return f"/inventory/{sku}/receive-stock", {"quantity": chance.randint(1, 5)}
    return f"/orders/order-{name}/place-order", {
        "customer_id": f"customer-{chance.randrange(100)}",
        "currency": "EUR",
        "lines": [{"sku": f"sku-{chance.randrange(20)}", "quantity": 1, "unit_price": 1000}],
        "ship_to": SHIP_TO,
    }


def describe(result: Result) -> str:
    """The figures of a run in one paragraph."""
    outages = result.outages_s or [0.0]
    return (
        f"{result.kills} kills, {len(result.answers)} commands acknowledged with events, "
        f"{result.refusals} refused, {result.retries} retries, {result.replays} replays, "
        f"{result.events} events in the log, outage median {statistics.median(outages):.1f} s, "
        f"worst {max(outages):.1f} s, {len(result.faults)} faults"
    )
