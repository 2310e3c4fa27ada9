"""Several command services as one: restarted in turn, killed, and one paused, under clients of any.

A client takes any instance that says it is ready, as a load balancer does, and repeats a command
with its key until it has an answer. A restart must not be felt at all. After a SIGKILL the
partitions that were owned by the dead wait for their next owner; how long is what is measured.
One that is paused (SIGSTOP) is taken for dead by the others and knows nothing of it: when it goes
on it must append nothing, which the files of the broker show (tenures.py), and serve again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2 as httpx

from tests.torture.checker import check_log
from tests.torture.kills import any_command
from tests.torture.log_reader import LogReader, LogRecord
from tests.torture.tenures import Batch, batches, check_tenures, log_folder, tenures
from tidelog.kafka.membership import heartbeat_ms
from tidelog.settings import Settings

PROBE_S = 0.1
RETRY_S = 0.05
ATTEMPT_TIMEOUT_S = 15.0
READY_TIMEOUT_S = 90.0
KILL_PAUSE_S = (0.2, 1.5)
ON_THEIR_WAY_MAX = 2
"""Transactions of a partition that may have been sent before a pause and are answered after it."""

CLIENTS = 32
PAUSE_S = 60.0
SERVICE = "command_service"
LOADED = ("orders", "inventory")

Place = tuple[str, int]


class Fleet(Protocol):
    """The instances, and the means to end them. Whoever ends one sees to it that it comes back."""

    def urls(self) -> Sequence[str]:
        """Where they are; an instance keeps its place over restarts."""
        ...

    async def restart(self, url: str) -> None:
        """Tell it to stop, and start it again."""
        ...

    async def kill(self, url: str) -> float:
        """SIGKILL it, and see to its start; the moment of its death (monotonic seconds)."""
        ...

    def pause(self, url: str) -> None:
        """SIGSTOP it."""
        ...

    def resume(self, url: str) -> None:
        """SIGCONT it."""
        ...


@dataclass
class Zombie:
    """One that was paused."""

    url: str
    held: set[Place]
    """What it owned when it was paused."""

    paused_s: float = 0.0
    outages_s: list[float] = field(default_factory=list)
    """From the pause to the next acknowledgement, per partition that it held."""

    serves_again_s: float = 0.0
    """From its return until a partition that it owns has acknowledged something."""

    late: int | None = None
    """Records that it has appended after it was fenced; None where the files cannot be seen."""


@dataclass
class Result:
    """What a run has seen."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    refusals: int = 0
    retries: int = 0
    restarts: int = 0
    felt: int = 0
    """Attempts that failed while instances were restarted in turn."""

    kills: int = 0
    outages_s: list[float] = field(default_factory=list)
    """From a kill to the next acknowledgement, per orphaned partition."""

    zombie: Zombie | None = None
    faults: list[str] = field(default_factory=list)
    events: int = 0
    tenures: int = 0
    """How often a partition has had a new owner, counted in the broker's files."""


@dataclass
class Run:
    """One run: each instance restarted in turn, then so many kills, then one paused for a while."""

    fleet: Fleet
    seed: int
    kills: int
    clients: int
    pause_s: float = PAUSE_S
    say: Callable[[str], None] = print
    result: Result = field(default_factory=Result)
    stopping: bool = False
    ready: set[str] = field(default_factory=set)
    acked: dict[Place, float] = field(default_factory=dict)
    """When the last acknowledged attempt of each partition was sent."""

    async def play(self) -> Result:
        """Load, restarts and kills; the log is checked by `check` afterwards."""
        async with httpx.AsyncClient(timeout=ATTEMPT_TIMEOUT_S, trust_env=False) as http:
            probes = [asyncio.create_task(self._probe(http, url)) for url in self.fleet.urls()]
            await self._until_all_ready()
            clients = [asyncio.create_task(self._client(http, n)) for n in range(self.clients)]
            await self._restart_in_turn()
            await self._kill_again_and_again(http)
            await self._pause_one(http)
            self.stopping = True
            await asyncio.gather(*clients)
            for probe in probes:
                probe.cancel()
        return self.result

    def check(self, records: Sequence[LogRecord], files: Mapping[Place, Iterable[Batch]]) -> Result:
        """Hold the log against all answers, and the broker's files against what owners may do."""
        result = self.result
        result.events = len(records)
        result.faults = check_log(records, result.answers)
        if result.felt:
            result.faults.append(f"{result.felt} attempts failed during clean restarts")
        for place, found in files.items():
            rows = tenures(found)
            result.tenures += len(rows)
            late = check_tenures(f"{place[0]}:{place[1]}", rows)
            result.faults += late
            if result.zombie is not None and place in result.zombie.held:
                result.zombie.late = (result.zombie.late or 0) + len(late)
        return result

    async def _probe(self, http: httpx.AsyncClient, url: str) -> None:
        """Know whether the instance is ready, as a load balancer does."""
        while True:
            if await _is_ready(http, url):
                self.ready.add(url)
            else:
                self.ready.discard(url)
            await asyncio.sleep(PROBE_S)

    async def _until_all_ready(self) -> None:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while len(self.ready) < len(self.fleet.urls()):
                await asyncio.sleep(PROBE_S)

    async def _restart_in_turn(self) -> None:
        await asyncio.sleep(1.0)
        retries = self.result.retries
        for url in self.fleet.urls():
            await self.fleet.restart(url)
            self.ready.discard(url)
            await self._until_all_ready()
            self.result.restarts += 1
        self.result.felt = self.result.retries - retries

    async def _kill_again_and_again(self, http: httpx.AsyncClient) -> None:
        chance = random.Random(self.seed)
        for _ in range(self.kills):
            await asyncio.sleep(chance.uniform(*KILL_PAUSE_S))
            url = chance.choice(list(self.fleet.urls()))
            orphans = await owned_places(http, url)
            killed_at = await self.fleet.kill(url)
            self.ready.discard(url)
            self.result.kills += 1
            outages = await self._until_acknowledged(orphans, killed_at)
            self.result.outages_s += outages
            self.say(f"kill {self.result.kills}: {_figures(outages)}")
            await self._until_all_ready()

    async def _pause_one(self, http: httpx.AsyncClient) -> None:
        """Pause one that owns something, until long after the others have taken it for dead."""
        chance = random.Random(f"pause-{self.seed}")
        owners = {url: await owned_places(http, url) for url in self.fleet.urls()}
        url = chance.choice([url for url, held in owners.items() if held])
        zombie = self.result.zombie = Zombie(url, owners[url])
        self.fleet.pause(url)
        paused_at = time.monotonic()
        try:
            self.ready.discard(url)
            zombie.outages_s = await self._until_acknowledged(zombie.held, paused_at)
            self.say(f"paused: {_figures(zombie.outages_s)}")
            await asyncio.sleep(max(0.0, paused_at + self.pause_s - time.monotonic()))
        finally:
            self.fleet.resume(url)
        resumed_at = time.monotonic()
        zombie.paused_s = resumed_at - paused_at
        await _until_it_commits(http, url)
        zombie.serves_again_s = time.monotonic() - resumed_at
        await self._until_all_ready()

    async def _until_acknowledged(self, orphans: set[Place], killed_at: float) -> list[float]:
        """Wait until each orphaned partition has acknowledged what was sent after the kill."""
        waiting, outages = set(orphans), []
        async with asyncio.timeout(READY_TIMEOUT_S):
            while waiting:
                await asyncio.sleep(0.02)
                for place in [each for each in waiting if self.acked.get(each, 0.0) > killed_at]:
                    waiting.remove(place)
                    outages.append(time.monotonic() - killed_at)
        return outages

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        count = 0
        while not self.stopping:
            count += 1
            await self._command(http, f"{self.seed}-{number}-{count}", chance)

    async def _command(self, http: httpx.AsyncClient, name: str, chance: random.Random) -> None:
        """One command, repeated with the same key, at any instance, until it is answered."""
        path, body = any_command(name, chance)
        headers = {"Idempotency-Key": f"key-{name}"}
        while True:
            url = chance.choice(sorted(self.ready) or list(self.fleet.urls()))
            sent_at = time.monotonic()
            try:
                answer = await http.post(url + path, json=body, headers=headers)
            except httpx.HTTPError as error:
                status, told = 0, repr(error)
            else:
                status, told = answer.status_code, answer.text
            if status in (200, 201):
                self._acknowledged(answer.json(), sent_at)
                return
            if 400 <= status < 500:
                self.result.refusals += 1
                return
            self.result.retries += 1
            self.say(f"retry at {url}: {status} {told[:300]}")
            await asyncio.sleep(RETRY_S)

    def _acknowledged(self, answer: dict[str, Any], sent_at: float) -> None:
        if answer["events"]:
            self.result.answers.append(answer)
        context, partition, _ = answer["token"].split(":")
        place = (context, int(partition))
        self.acked[place] = max(self.acked.get(place, 0.0), sent_at)


class StackFleet:
    """The command services of a system that `./dev up` runs, and starts again when they end."""

    def __init__(self, dev_file: Path) -> None:
        self._dev_file = dev_file
        self._urls = [process["url"] for process in self._processes()]

    def urls(self) -> Sequence[str]:
        """As dev.json lists them."""
        return self._urls

    async def restart(self, url: str) -> None:
        """SIGTERM; returns once a new process has its place."""
        pid = self._send(url, signal.SIGTERM)
        async with asyncio.timeout(READY_TIMEOUT_S):
            while self._pid(url) in (pid, None):
                await asyncio.sleep(PROBE_S)

    async def kill(self, url: str) -> float:
        """SIGKILL."""
        self._send(url, signal.SIGKILL)
        return time.monotonic()

    def pause(self, url: str) -> None:
        """SIGSTOP."""
        self._send(url, signal.SIGSTOP)

    def resume(self, url: str) -> None:
        """SIGCONT."""
        self._send(url, signal.SIGCONT)

    def _send(self, url: str, number: signal.Signals) -> int:
        pid = self._pid(url)
        assert pid is not None, f"no process listens at {url}"
        os.kill(pid, number)
        return pid

    def _pid(self, url: str) -> int | None:
        found = [process["pid"] for process in self._processes() if process["url"] == url]
        return found[0] if found else None

    def _processes(self) -> list[dict[str, Any]]:
        processes: list[dict[str, Any]] = json.loads(self._dev_file.read_text())["processes"]
        return [process for process in processes if process["name"] == SERVICE]


def play(dev_file: Path, seed: int, kills: int, clients: int, pause_s: float) -> Result:
    """A run against the system that `dev_file` describes."""
    run = Run(StackFleet(dev_file), seed, kills, clients, pause_s)
    asyncio.run(run.play())
    dev = json.loads(dev_file.read_text())
    servers = dev["kafka"]["bootstrap_servers"]
    return run.check(read_log(servers, dev["registry"]["url"]), read_files(servers))


async def owned_places(http: httpx.AsyncClient, url: str) -> set[Place]:
    """The partitions of loaded contexts that an instance serves now."""
    return {place for place, serves in (await _figures_of(http, url, "serving")).items() if serves}


async def _until_it_commits(http: httpx.AsyncClient, url: str) -> None:
    """Wait until an instance commits, more than what may have been on its way before."""
    before = await _figures_of(http, url, "commits_total")
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            now = await _figures_of(http, url, "commits_total")
            # It counts from 0 whenever it takes a partition over.
            new = [
                count - before.get(place, 0) if count >= before.get(place, 0) else count
                for place, count in now.items()
            ]
            if any(count > ON_THEIR_WAY_MAX for count in new):
                return
            await asyncio.sleep(PROBE_S)


async def _figures_of(http: httpx.AsyncClient, url: str, name: str) -> dict[Place, float]:
    """A figure of each partition of the loaded contexts that an instance owns."""
    page = (await http.get(f"{url}/metrics")).text
    starts = (f"tidelog_partition_{name}{{", f"tidelog_{name}{{")
    found = [line.split('"') for line in page.splitlines() if line.startswith(starts)]
    return {
        (parts[1], int(parts[3])): float(parts[4].removeprefix("} "))
        for parts in found
        if parts[1] in LOADED
    }


async def _is_ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz", timeout=2.0)).status_code == 200
    except httpx.HTTPError:
        return False


def read_log(bootstrap_servers: str, registry_url: str, prefix: str = "") -> list[LogRecord]:
    """The log of the contexts under load, as an independent reader finds it."""
    reader = LogReader(bootstrap_servers, registry_url)
    return [record for context in LOADED for record in reader.read(f"{prefix}{context}.events")]


def read_files(bootstrap_servers: str, prefix: str = "") -> dict[Place, Iterable[Batch]]:
    """Each partition's batches from the broker's files; nothing where they are elsewhere."""
    folder = log_folder(bootstrap_servers)
    if folder is None:
        return {}
    return {
        (context, int(partition.name.rpartition("-")[2])): batches(partition)
        for context in LOADED
        for partition in sorted(folder.glob(f"{prefix}{context}.events-*"))
    }


def _figures(outages: Sequence[float]) -> str:
    if not outages:
        return "no partition was orphaned"
    return (
        f"{len(outages)} partitions orphaned, next acknowledgement after "
        f"{statistics.median(outages):.1f} s (median), {max(outages):.1f} s (worst)"
    )


def describe(result: Result, clients: int, settings: Settings) -> str:
    """What was seen, a line each, with the settings of the instances that explain it."""
    session_s = settings.session_timeout_ms / 1_000
    beat_s = heartbeat_ms(settings.session_timeout_ms) / 1_000
    return f"""\
load: {clients} clients of any instance; {len(result.answers)} commands acknowledged with events, \
{result.refusals} refused, {result.retries} attempts repeated with the same key
rolling restart: {result.restarts} restarts in turn, {result.felt} attempts failed
SIGKILL: {result.kills} at random: {_figures(result.outages_s)}
  of it: nobody takes over before the dead one's session has run out, {session_s:g} s \
(TIDELOG_SESSION_TIMEOUT_MS) after its last heartbeat (one each {beat_s:g} s); then the group \
balances, and the next owner fences, reads the log to its end and serves. The transaction timeout \
({settings.transaction_timeout_ms / 1_000:g} s) plays no part: fencing aborts what was open.
{_told_of(result.zombie)}
log: {result.events} events, {result.tenures} tenures of owners, {len(result.faults)} faults \
(lost, doubled, torn, out of order, or by an owner that was fenced)"""


def _told_of(zombie: Zombie | None) -> str:
    if zombie is None:
        return "SIGSTOP: nobody was paused"
    late = (
        "what it appended then cannot be seen: the broker's files are elsewhere"
        if zombie.late is None
        else f"resumed, it appended {zombie.late} records under its old epochs"
    )
    return (
        f"SIGSTOP: one for {zombie.paused_s:.0f} s, it held {len(zombie.held)} partitions: "
        f"{_figures(zombie.outages_s)}; {late}, and committed as an owner again "
        f"{zombie.serves_again_s:.1f} s after its return"
    )
