"""One run: everything is drawn from the seed, wired, run until all is answered, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidelog.engine.ports import Checkpoint, Limits, OutgoingRecord, Tools
from tidelog.engine.writer import PartitionWriter
from tidelog.memory import LogRefusal, MemoryLog, MemoryStateStore

from .checker import Checker
from .client import KEYS, Client
from .domain import RECORD_BYTES_MAX, account, codec
from .faults import (
    FAULTS_END_MS,
    PATIENCE_MS,
    TRANSACTION_TIMEOUT_MS,
    draw_faults,
)
from .group import Group
from .network import Network
from .process import Process
from .scheduler import Scheduler, Violation

TICK_MS = 50.0
FOREIGN = OutgoingRecord(b"anna", b"not ours", [("from", b"elsewhere")])


@dataclass(frozen=True, kw_only=True)
class Build:
    """The code under test: the real one, or one with a planted bug.

    `emphasis` sets some faults in every run, where a bug needs them.
    """

    name: str = "as it is"
    writer: type[PartitionWriter] = PartitionWriter
    process: type[Process] = Process
    emphasis: Mapping[str, float] = field(default_factory=dict)
    patience: int = 1  # so many times the usual number of commands
    find_end: Callable[[MemoryLog], int] = field(default=lambda log: log.high_watermark)


AS_IT_IS = Build()


class World:
    """A broker with one partition, a group, some processes, some clients."""

    def __init__(self, seed: int, *, build: Build = AS_IT_IS, tracing: bool = False) -> None:
        self.seed = seed
        self.build = build
        self.scheduler = Scheduler(seed, tracing)
        rng = self.scheduler.random
        self.faults = draw_faults(rng)
        for name, strength in build.emphasis.items():
            setattr(self.faults, name, strength)
        self.log = MemoryLog(markers_delayed=True, on_opened=self._opened, on_decided=self._decided)
        self.network = Network(self.scheduler, self.faults)
        self.group = Group(self.scheduler, self.faults)
        self.checker = Checker(self.log, leases_hold=not self.faults.lease_lies)
        self.limits = Limits(
            queue_commands_max=rng.choice((3, 100, 100)),
            batch_commands_max=rng.choice((1, 2, 100)),
            batch_bytes_max=rng.choice((1_600, 100_000)),
            record_bytes_max=RECORD_BYTES_MAX,
            cached_entries_max=rng.choice((1, 2, 100)),
            cached_seen_max=rng.choice((1, 2, 100)),
            replay_checkpoint_events=rng.choice((1, 3, 5_000)),
        )
        self._messages = 0
        narrow = bool(build.emphasis)
        self.keys = KEYS[: 1 if narrow else rng.choice((1, 2))]
        self.processes = [
            build.process(self, number)
            for number in range(2 if narrow else rng.choice((1, 2, 2, 3)))
        ]
        self.clients = [
            Client(self, number, operations=rng.randint(3, 9) * build.patience)
            for number in range(rng.choice((1, 2, 3, 5)))
        ]
        self._healed = False

    def run(self) -> None:
        """Run to the end and check everything; raises Violation."""
        if self.scheduler.tracing:
            self.scheduler.note("world", f"{self.faults}")
            self.scheduler.note("world", f"{self.limits}")
        for process in self.processes:
            self.scheduler.after(self.scheduler.between(0, 30), process.start)
        for client in self.clients:
            client.start()
        self._tick()
        self.scheduler.after(FAULTS_END_MS, self._heal)
        if not self.scheduler.run_until(self._finished, PATIENCE_MS):
            waiting = [client.name for client in self.clients if not client.finished]
            raise Violation(f"liveness: {waiting} still wait, {self._broken()}")
        self.checker.check_all(self.processes)

    # --- what the others ask ------------------------------------------------------------------

    def new_writer(self, process: Process) -> PartitionWriter:
        """A fresh writer for a process that was given the partition."""
        return self.build.writer(
            context="accounts",
            partition=0,
            aggregate=account,
            store=_CheckedStore(process.store, self.checker),
            tools=Tools(codec=codec, new_id=self._new_id, now=self._wall_clock),
            limits=self.limits,
        )

    def find_end(self) -> int:
        """The end of the log as the driver looks it up."""
        return self.build.find_end(self.log)

    def route(self) -> Process:
        """The process that a client asks: the owner as far as anyone knows, or any."""
        owner = self.group.owner
        if self.scheduler.chance(self.faults.wrong_door):
            deposed = [
                process
                for process in self.processes
                if process.writer is not None and process.number != owner
            ]
            return self.scheduler.random.choice(deposed or self.processes)
        if owner is None:
            return self.scheduler.random.choice(self.processes)
        return self.processes[owner]

    def spoil_checkpoint(self, process: Process) -> None:
        """What a crash may do to the checkpoint."""
        if self.scheduler.chance(self.faults.lose_checkpoint):
            store = process.store
            spoil: Any = self.scheduler.random.choice(
                (store.clear, store.lose_unflushed, store.corrupt)
            )
            if self.scheduler.tracing:
                self.scheduler.note(process.name, f"checkpoint: {spoil.__name__}")
            spoil()

    # --- what happens by itself ---------------------------------------------------------------

    def _tick(self) -> None:
        self.group.tick()
        chance, faults = self.scheduler.chance, self.faults
        if chance(faults.broker_refuses):
            self._note("the broker refuses everything for a while")
            self.network.refuses_until_ms = self.scheduler.now_ms + self.scheduler.between(5, 300)
        if chance(faults.rebalance):
            self._note("the group rebalances")
            self.group.rebalance()
        if chance(faults.foreign):
            self._foreign_records()
        self.scheduler.after(TICK_MS, self._tick)

    def _foreign_records(self) -> None:
        """Another producer writes: without a transaction, or in one that stays open for a while."""
        self._note("a foreign producer writes")
        if self.scheduler.chance(0.5):
            self.log.append_plain(FOREIGN)
            self.checker.read_on()
            return
        try:
            epoch = self.log.init("foreign")
        except LogRefusal:
            return
        self.log.append("foreign", epoch, [FOREIGN], begin=True)
        commit = self.scheduler.chance(0.5)

        def end() -> None:
            try:
                self.log.end("foreign", epoch, commit=commit)
            except LogRefusal:
                self._note("the foreign transaction is over already")

        self.scheduler.after(self.scheduler.between(1, 400), end)

    def _opened(self, transactional_id: str) -> None:
        began_at = self.log.high_watermark

        def expire() -> None:
            if self.log.opened_at(transactional_id) == began_at:
                self._note(f"the transaction of {transactional_id} is too old")
                self.log.expire(transactional_id)

        self.scheduler.after(TRANSACTION_TIMEOUT_MS, expire)

    def _decided(self, transactional_id: str) -> None:
        slow = self.scheduler.chance(self.faults.marker_slow)

        def mark() -> None:
            self.log.write_marker(transactional_id)
            self.checker.read_on()

        self.scheduler.after(self.scheduler.between(0.1, 120 if slow else 3), mark)

    def _heal(self) -> None:
        """The faults stop: whoever is stopped goes on, whoever is dead comes back by itself."""
        self._note("the faults stop")
        self._healed = True
        self.faults.stop()
        self.network.refuses_until_ms = 0.0
        for process in self.processes:
            process.paused_until_ms = 0.0

    def _finished(self) -> bool:
        if not all(client.finished for client in self.clients):
            return False
        quiet = self.log.last_stable_offset == self.log.high_watermark
        return quiet or (not self._healed and self.scheduler.now_ms > FAULTS_END_MS)

    def _broken(self) -> list[str]:
        return [
            str(process.writer.broken)
            for process in self.processes
            if process.writer is not None and process.writer.broken is not None
        ]

    def _new_id(self) -> str:
        self._messages += 1
        return f"m-{self._messages}"

    def _wall_clock(self) -> str:
        now_ms = self.scheduler.now_ms
        return f"2026-01-01T00:00:{now_ms // 1000:02.0f}.{now_ms % 1000 * 1000:06.0f}Z"

    def _note(self, what: str) -> None:
        if self.scheduler.tracing:
            self.scheduler.note("world", what)


class _CheckedStore:
    """A checkpoint store whose every write is checked."""

    def __init__(self, store: MemoryStateStore, checker: Checker) -> None:
        self._checker = checker
        self._store = store
        self.anchor = store.anchor
        self.entry = store.entry
        self.seen = store.seen
        self.clear = store.clear

    def write(self, checkpoint: Checkpoint) -> None:
        """Save everything in the checkpoint, or nothing."""
        self._checker.checkpoint_written(checkpoint)
        self._store.write(checkpoint)
