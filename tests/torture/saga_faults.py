"""What happens to the sagas in a run: SIGKILL of every part in turn, a world that misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

KILLED = (
    "sagas",
    "effects",
    "command_service",
    "projectors",
    "notifications",
    "payment_provider",
    "carrier",
    "mail",
)
POSTGRES, KAFKA = "postgres", "kafka"
SIMULATORS = ("payment_provider", "carrier")
PAUSE_S = (0.5, 4.0)
LOOK_S = 0.1
MOOD_S = 3.0
"""How long a simulator misbehaves in one way. A killed one is told anew: it has forgotten."""

EFFECT_TIMEOUT_MS = 3_000
MOODS: tuple[dict[str, Any], ...] = (
    {"mode": "decline"},
    {"mode": "slow", "delay_ms": EFFECT_TIMEOUT_MS // 3},
    {"mode": "slow", "delay_ms": EFFECT_TIMEOUT_MS + 1_500},  # it is done, after we gave up
    {"mode": "error"},
    {"mode": "lose-answer"},
    {"mode": "hang"},
    {"mode": "twice"},
)
GOOD: dict[str, Any] = {"mode": "approve"}


@dataclass
class System:
    """The running system as `dev.json` describes it now: processes change their ids."""

    dev_file: Path

    def dev(self) -> dict[str, Any]:
        """The description, read anew."""
        found: dict[str, Any] = json.loads(self.dev_file.read_text())
        return found

    def url(self, name: str) -> str:
        """Where a part answers; the same after a restart."""
        return str(self.dev()[name]["url"])

    def process_url(self, name: str) -> str:
        """Where a process answers that is no door of the system."""
        found = [p["url"] for p in self.dev()["processes"] if p["name"] == name]
        return str(found[0])

    def pid(self, name: str) -> int:
        """The process as it runs now; 0 while there is none."""
        found = [p["pid"] for p in self.dev()["processes"] if p["name"] == name and p["pid"]]
        return int(found[0]) if found else 0

    async def kill(self, name: str) -> None:
        """SIGKILL to the process and all that it has started, as a crash of the machine would."""
        while True:
            pid = self.pid(name)
            try:
                if pid:
                    os.killpg(pid, signal.SIGKILL)
                    return
            except ProcessLookupError:
                pass  # it is dead already and not replaced yet
            await asyncio.sleep(LOOK_S)


@dataclass
class Kills:
    """So many kills, spread over the parts."""

    system: System
    seed: int
    processes: int
    postgres: int
    kafka: int
    done: Counter[str] = field(default_factory=Counter)
    at: list[tuple[float, str]] = field(default_factory=list)

    async def run(self) -> None:
        """One after the other, at random moments."""
        chance = random.Random(self.seed)
        for name in self._names(chance):
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            await self.system.kill(name)
            self.done[name] += 1
            self.at.append((time.time(), name))

    def _names(self, chance: random.Random) -> Iterator[str]:
        names = [KILLED[number % len(KILLED)] for number in range(self.processes)]
        names += [POSTGRES] * self.postgres + [KAFKA] * self.kafka
        chance.shuffle(names)
        yield from names


@dataclass
class Moods:
    """The simulators misbehave, each in its own way and for a share of their calls, until told."""

    system: System
    seed: int
    failures: float
    http: httpx.AsyncClient
    stopping: bool = False

    async def run(self) -> None:
        """Change the moods again and again; in the end all is well."""
        chance = random.Random(f"moods-{self.seed}")
        while not self.stopping:
            for name in SIMULATORS:
                await self._tell(name, {**chance.choice(MOODS), "rate": self.failures})
            await asyncio.sleep(MOOD_S)
        for name in SIMULATORS:
            while not await self._tell(name, GOOD):
                await asyncio.sleep(LOOK_S)

    async def _tell(self, name: str, behaviour: dict[str, Any]) -> bool:
        try:
            url = f"{self.system.url(name)}/behaviour"
            answer = await self.http.put(url, json=behaviour, timeout=5)
        except httpx.HTTPError:
            return False  # it was killed; it is told again in a moment
        return answer.is_success
