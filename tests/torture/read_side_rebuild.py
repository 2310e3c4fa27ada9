"""A long rebuild under load: nobody who reads notices, the switch is short, and it can go back."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.torture.long_log import broker_with_log
from tests.torture.read_side import caught_up, check_read_models, check_whole_log
from tests.torture.read_side_load import Load
from tests.torture.read_side_positions import Positions
from tests.torture.read_side_readers import Readers, Seen
from tests.torture.read_side_restore import under_load
from tests.torture.system import folder_for_servers, system

CLIENTS = 16
WARM_S = 3.0
AROUND_S = 2.0
LONG_LOG_TIMEOUT_S = 1_800.0
LEFT_OUT = ("sagas", "effects", "notifications", "live_metrics")


@dataclass
class Result:
    """What a run has seen. `switch_read_s` is the longest read around the switch."""

    rebuilt: dict[str, Any] = field(default_factory=dict)
    rolled_back: dict[str, Any] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    commands_a_second: float = 0.0
    changes_a_second: float = 0.0
    retries: int = 0
    longest_read_s: float = 0.0
    switch_read_s: float = 0.0
    back_read_s: float = 0.0
    seen: Seen = field(default_factory=Seen)
    events: int = 0
    verified: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def play(seed: int, events: int, rate: float, lines: int, projection: str) -> Result:
    """Write the log, start a system over it, and rebuild the projection under load."""
    with folder_for_servers() as folder, broker_with_log(folder, events) as servers:
        external = {"TIDELOG_KAFKA_BOOTSTRAP_SERVERS": servers}
        # A log that was written in bulk is no log for sagas: they would ask for everything anew.
        with system(None, external, without=LEFT_OUT) as dev_file:
            return asyncio.run(RebuildRun(dev_file, seed, rate, lines, projection).play())


@dataclass
class RebuildRun:
    """One run against the system that `dev_file` describes."""

    dev_file: Path
    seed: int
    rate: float
    lines: int
    projection: str
    result: Result = field(default_factory=Result)
    reads: list[tuple[float, float]] = field(default_factory=list)  # (ended, seconds)

    async def play(self) -> Result:
        """The whole run; what should not be is in `faults`."""
        dev: dict[str, Any] = json.loads(self.dev_file.read_text())
        commands = httpx.AsyncClient(base_url=dev["gateway"]["url"], trust_env=False)
        queries = httpx.AsyncClient(
            base_url=dev["query"]["url"],
            trust_env=False,
            event_hooks={"request": [_began], "response": [self._ended]},
        )
        positions = Positions(dev["postgres"]["dsn"])
        async with commands, queries:
            self.result.faults += await caught_up(queries, LONG_LOG_TIMEOUT_S)
            load = Load(self.seed, CLIENTS, self.rate, commands, self.lines)
            readers = Readers(self.seed, load, queries)
            positions.start()
            await under_load(load, readers, lambda: self._rebuild(load, readers, positions))
            self.result.faults += await caught_up(queries)
        await asyncio.to_thread(positions.stop)
        self._take_in(load, readers, positions)
        self.result.events, faults = await asyncio.to_thread(check_whole_log, dev, load.answers)
        self.result.verified, different = await asyncio.to_thread(check_read_models, self.dev_file)
        self.result.faults += [*faults, *different]
        return self.result

    async def _rebuild(self, load: Load, readers: Readers, positions: Positions) -> None:
        """Rebuild, prove under load, go back, prove that too."""
        await asyncio.sleep(WARM_S)
        self.reads.clear()
        began, sent, answers = time.monotonic(), load.sent, len(load.answers)
        serving = self._newest(positions)
        rebuilding = asyncio.create_task(self._cli("rebuild", self.projection))
        self.result.rebuilt = await rebuilding
        switched_at = time.monotonic()
        await asyncio.sleep(AROUND_S)
        self.result.seconds = switched_at - began
        under_load_s = time.monotonic() - began
        self.result.commands_a_second = (load.sent - sent) / under_load_s
        self.result.changes_a_second = (len(load.answers) - answers) / under_load_s
        self.result.longest_read_s = self._longest(began, time.monotonic())
        self.result.switch_read_s = self._longest(switched_at - AROUND_S, time.monotonic())
        if self._newest(positions) == serving:
            self.result.faults.append("no new generation was made")
        self.result.proofs.append(await self._cli("verify", self.projection))
        back_at = time.monotonic()
        self.result.rolled_back = await self._cli("rollback", self.projection)
        await asyncio.sleep(AROUND_S)
        self.result.back_read_s = self._longest(back_at, time.monotonic())
        self.result.proofs.append(await self._cli("verify", self.projection))

    async def _cli(self, *arguments: str) -> dict[str, Any]:
        """A command of `tidelog projection`, which must end well."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidelog.cli", "projection", *arguments),
            *("--json", "--dev", str(self.dev_file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            self.result.faults.append(f"{arguments} ended with {process.returncode}: {err!r}")
            return {}
        answer: dict[str, Any] = json.loads(out)
        # Should the rest of a long run fail, this much is known.
        print(f"{' '.join(arguments)}: {json.dumps(answer)}", file=sys.stderr, flush=True)
        return answer

    async def _ended(self, answer: httpx.Response) -> None:
        now = time.monotonic()
        self.reads.append((now, now - answer.request.extensions["began"]))

    def _longest(self, begin: float, end: float) -> float:
        return max((took for ended, took in self.reads if begin <= ended <= end), default=0.0)

    def _newest(self, positions: Positions) -> int:
        numbers = [place[2] for place in positions.now if place[0] == self.projection]
        return max(numbers, default=0)

    def _take_in(self, load: Load, readers: Readers, positions: Positions) -> None:
        result, seen = self.result, readers.seen
        result.seen, result.retries = seen, load.retries
        result.faults += seen.faults
        result.faults += [f"moved back: {each}" for each in positions.moved_back]
        if seen.went_back:
            result.faults.append(f"readers saw positions go back {seen.went_back} times")
        result.faults += [f"differs: {proof}" for proof in result.proofs if not proof.get("equal")]


async def _began(request: httpx.Request) -> None:
    request.extensions["began"] = time.monotonic()


def describe(result: Result) -> str:
    """The figures of a run."""
    seen, rebuilt = result.seen, result.rebuilt
    seconds = float(rebuilt.get("seconds") or 0)
    pace = float(rebuilt.get("events") or 0) / seconds if seconds else 0.0
    return f"""\
rebuilt: {rebuilt}
{pace:.0f} events/s, {result.seconds:.1f} s by our clock, under {result.commands_a_second:.0f} \
commands/s, {result.changes_a_second:.0f} of them with events ({result.retries} retries)
reads: {seen.answers} answered, {seen.token_reads} with the token of a write, {seen.busy} failed, \
{seen.not_there_yet} without a token before the row was there
longest read {result.longest_read_s * 1_000:.0f} ms; around the switch \
{result.switch_read_s * 1_000:.0f} ms, around the way back {result.back_read_s * 1_000:.0f} ms
rolled back: {result.rolled_back}
verified equal: {", ".join(result.verified)}; {result.events} events in the log
{len(result.faults)} faults"""
