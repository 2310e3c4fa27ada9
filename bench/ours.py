"""Our side in process: a real CommandHost with one aggregate, and clients that drive it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop

from bench.sample import Sample, Stopwatch, percentile
from bench.shop import CONTEXT, envelope, order_ids
from bench.stack import Stack, codec_of
from command_service.__main__ import open_store, tune_interpreter
from command_service.aggregates import AGGREGATES
from tidelog.engine.command import Envelope, Outcome, Recorded
from tidelog.kafka.command_host import CommandHost, HostParts
from tidelog.kafka.command_inbox import TopicCommand
from tidelog.settings import Settings

READY_TIMEOUT_S = 60.0
FIRST_ROUND_COMMANDS = 5_000


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """How a host is set up. Hosts of other sides have other prefixes, so they never meet."""

    stack: Stack
    prefix: str
    partitions: int
    batch_commands_max: int | None = None
    """None takes the default of the settings."""
    context: str = CONTEXT
    keeps_checkpoints: bool = False


class Host:
    """A CommandHost on an event loop that runs while a round does."""

    def __init__(self, spec: HostSpec) -> None:
        self._state_dir = spec.stack.folder / "state" / spec.prefix
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._spec = spec
        self.stack = spec.stack
        tune_interpreter()
        self._host = self._runner.run(self._start())
        self.submit = partial(self._host.submit, spec.context)

    def run(self, coroutine: Any) -> None:
        """Run it on the host's loop."""
        self._runner.run(coroutine)

    def record(self, envelopes: Sequence[Envelope], in_flight: int) -> None:
        """Submit prebuilt commands, so many in flight; returns with the last answer."""
        self.run(_Slots(self, envelopes).run(in_flight))

    def commits(self) -> int:
        """How many transactions have been committed so far."""
        return sum(owner.commits for owner in self._host.owners.values())

    def close(self) -> None:
        """Leave the group, remove the checkpoints."""
        self._runner.run(self._host.stop())
        self._runner.close()
        if not self._spec.keeps_checkpoints:
            shutil.rmtree(self._state_dir, ignore_errors=True)

    async def _start(self) -> CommandHost:
        spec = self._spec
        host = CommandHost(
            _settings(spec, self._state_dir),
            HostParts(
                aggregates=[each for each in AGGREGATES if each.context.name == spec.context],
                codec=codec_of(spec.stack, spec.prefix),
                open_store=open_store(self._state_dir),
                outcomes=NoTopicCommands(),
            ),
        )
        await host.start()

        def serving() -> bool:
            return len(host.owners) == spec.partitions and not host.problems()

        async with asyncio.timeout(READY_TIMEOUT_S):
            while not serving():
                await asyncio.sleep(0.05)
        return host


class NoTopicCommands:
    """The outcome store of a host that is sent no commands through the topic."""

    async def finish(self, context: str, _partition: int, done: Sequence[TopicCommand]) -> None:
        """Nothing may arrive here."""
        raise AssertionError(f"{len(done)} commands came through {context}.commands")


class SlotsSide:
    """So many commands in flight at all times, by callbacks: the cheapest driver there is.

    Envelopes are built beforehand, as the peer's records are.
    """

    def __init__(self, spec: HostSpec, in_flight: int) -> None:
        self._host = Host(spec)
        self._in_flight = in_flight
        self._ids = order_ids()
        self._commands = max(FIRST_ROUND_COMMANDS, 2 * in_flight)

    def run(self, seconds: float) -> Sample:
        """Submit prebuilt commands; the clock stops with the last answer."""
        envelopes = [envelope(key) for key in islice(self._ids, self._commands)]
        commits = self._host.commits()
        watch = Stopwatch([self._host.stack.kafka_pid])
        self._host.record(envelopes, self._in_flight)
        transactions = self._host.commits() - commits
        sample = watch.sample(len(envelopes), {"commands/tx": len(envelopes) / transactions})
        self._commands = max(self._commands, int(sample.rate * seconds))
        return sample

    def close(self) -> None:
        """Stop the host."""
        self._host.close()


class _Slots:
    def __init__(self, host: Host, envelopes: Sequence[Envelope]) -> None:
        self._submit = host.submit
        self._waiting = iter(envelopes)
        self._unanswered = len(envelopes)
        self._done = asyncio.Event()
        self._failure: Outcome | None = None

    async def run(self, in_flight: int) -> None:
        for each in list(islice(self._waiting, in_flight)):
            self._submit(each).add_done_callback(self._answered)
        await self._done.wait()
        if self._failure is not None:
            raise AssertionError(f"not recorded: {self._failure}")

    def _answered(self, future: asyncio.Future[Outcome]) -> None:
        outcome = future.result()
        if type(outcome) is not Recorded:
            self._failure = outcome
            self._done.set()
        following = next(self._waiting, None)
        if following is not None:
            self._submit(following).add_done_callback(self._answered)
        self._unanswered -= 1
        if not self._unanswered:
            self._done.set()


class ClientsSide:
    """Closed-loop clients: each a task that builds its command, sends it, awaits the answer."""

    def __init__(self, spec: HostSpec, clients: int) -> None:
        self._host = Host(spec)
        self._clients = clients
        self._ids = order_ids()
        self._latencies: list[float] = []

    def run(self, seconds: float) -> Sample:
        """All clients for so long."""
        self._latencies = []
        commits = self._host.commits()
        watch = Stopwatch([self._host.stack.kafka_pid])
        self._host.run(self._all(seconds))
        operations = len(self._latencies)
        sample = watch.sample(operations)
        transactions = self._host.commits() - commits
        sample.extra.update(
            {
                "commands/tx": operations / transactions,
                "p50_ms": percentile(self._latencies, 0.50) * 1e3,
                "p99_ms": percentile(self._latencies, 0.99) * 1e3,
            }
        )
        return sample

    def close(self) -> None:
        """Stop the host."""
        self._host.close()

    async def _all(self, seconds: float) -> None:
        until = perf_counter() + seconds
        await asyncio.gather(*(self._client(until) for _ in range(self._clients)))

    async def _client(self, until: float) -> None:
        submit, ids, latencies = self._host.submit, self._ids, self._latencies
        while (sent := perf_counter()) < until:
            outcome = await submit(envelope(next(ids)))
            if type(outcome) is not Recorded:
                raise AssertionError(f"not recorded: {outcome}")
            latencies.append(perf_counter() - sent)


def _settings(spec: HostSpec, state_dir: Path) -> Settings:
    settings = Settings(
        kafka_bootstrap_servers=spec.stack.kafka,
        registry_url=spec.stack.registry,
        topic_prefix=spec.prefix,
        partitions=spec.partitions,
        state_dir=state_dir,
    )
    if spec.batch_commands_max is None:
        return settings
    return settings.model_copy(update={"batch_commands_max": spec.batch_commands_max})
