"""Drives one partition's writer on Kafka: a worker thread for calls that block, else the loop.

The order of things is the engine's (tidelog/engine/writer.py). Here each action is carried out and
its outcome reported; nothing is decided.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from prometheus_client import Histogram

from tidelog.engine.actions import (
    Action,
    Append,
    Commit,
    Fence,
    FindEnd,
    Phase,
    Read,
    Reset,
    Slot,
)
from tidelog.engine.batch import Request
from tidelog.engine.writer import PartitionWriter
from tidelog.errors import LogError, NotOwner, TidelogError
from tidelog.kafka.lease import Lease
from tidelog.kafka.marker_watch import MarkerWatch
from tidelog.kafka.partition_log import PartitionLog

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 5.0
PROOF_POLL_S = 0.05
CHECKPOINT_RETRY_S = 1.0

COMMIT_SECONDS = Histogram(
    "tidelog_commit_seconds",
    "From handing a transaction to Kafka until its commit is known.",
    ["context"],
    buckets=(
        0.001,
        0.002,
        0.003,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
    ),
)
COMMIT_EVENTS = Histogram(
    "tidelog_commit_events",
    "Events per transaction.",
    ["context"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)

log = structlog.get_logger(__name__)


class _CommitMeter:
    """Measures the commits of a partition."""

    def __init__(self, context: str, clock: Callable[[], float]) -> None:
        self._seconds = COMMIT_SECONDS.labels(context)
        self._events = COMMIT_EVENTS.labels(context)
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        self._began = self._clock()

    def end(self, events: int) -> None:
        self._seconds.observe(self._clock() - self._began)
        self._events.observe(events)


class PartitionOwner:
    """One owned partition. All methods but the worker's run on the event loop."""

    def __init__(
        self,
        writer: PartitionWriter,
        partition_log: PartitionLog,
        lease: Lease,
        loop: asyncio.AbstractEventLoop,
        close_store: Callable[[], None],
        run_aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self.writer = writer
        self._log = partition_log
        self._lease = lease
        self._loop = loop
        self._close_store = close_store
        self._run_aside = run_aside
        self._name = f"{writer.context}-{writer.partition}"
        self._jobs: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name=f"owner-{self._name}", daemon=True)
        self._scheduled = False
        self._later: asyncio.TimerHandle | None = None
        self._checkpoint_due = False
        self._append_failed = False
        self._in_worker = False
        self._failed_at = 0.0
        self._resumption: asyncio.Task[None] | None = None
        self._released = asyncio.Event()  # the worker has let go of Kafka
        self._closed = False
        self._meter = _CommitMeter(writer.context, loop.time)
        self._markers = MarkerWatch(
            self._name, loop, run_aside, partition_log.settled, self._marker_overdue
        )
        self.commits = 0
        self.takeovers = 0
        self.checkpoint_failures = 0
        self.failures = 0

    def start(self) -> None:
        """Begin the takeover."""
        self._worker.start()
        self._schedule()

    def submit(self, request: Request) -> None:
        """Queue a command; raises where the writer refuses it."""
        self.writer.offer(request)
        self._schedule()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is waiting, open or committing; False if that took too long."""
        deadline = self._loop.time() + timeout_s
        while not self.writer.idle and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        return self.writer.idle

    async def stop(self, error: TidelogError) -> None:
        """Refuse what is left, save the checkpoint, release handles and files."""
        if self.writer.phase is not Phase.STOPPED:
            self.writer.stop(error)
        self._deliver()
        self._markers.stop()
        if self._resumption is not None:
            self._resumption.cancel()
        self._jobs.put(None)
        await self._released.wait()
        if self._checkpoint_due:
            self._checkpoint()
        self._closed = True
        self._close_store()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        if not self._append_failed:
            self.writer.decide(self._lease.holds())
        self._drive()
        self._deliver()
        waits = self.writer.serving and self.writer.queued and not self._in_worker
        if waits and self._later is None:
            # Nothing is under way that would pump again: the writer waits for the lease.
            self._later = self._loop.call_later(PROOF_POLL_S, self._schedule_again)

    def _schedule_again(self) -> None:
        self._later = None
        self._schedule()

    def _drive(self) -> None:
        """Carry out actions until one takes time."""
        while not self._append_failed:
            action = self.writer.next_action()
            if action is None:
                return
            if isinstance(action, Append):
                self._append(action)
            else:
                self._in_worker = True
                self._meter.begin()
                self._jobs.put(action)

    def _append(self, action: Append) -> None:
        try:
            self._log.append(action)
        except Exception as error:  # whatever it is, the log is read again from where it is sure
            self._append_failed = True
            log.warning("owner.append_failed", partition=self._name, error=str(error))
            if not self._in_worker:
                self._fail()

    def _fail(self) -> None:
        self._append_failed = False
        self.failures += 1
        self._failed_at = self._lease.clock()
        self.writer.failed()

    def _marker_overdue(self) -> None:
        """The takeover writes it, and nobody reads what was committed before that."""
        if self.writer.serving and self.writer.idle and not self._in_worker:
            self._fail()
            self._pump()

    def _deliver(self) -> None:
        for request, outcome in self.writer.take_answers():
            try:
                request.reply(outcome)
            except Exception as error:  # one waiter's fault takes no answer from the others
                log.exception("owner.reply_failed", partition=self._name, error=str(error))

    def _done(self, action: Action, result: Any, error: BaseException | None) -> None:
        """The worker has finished an action."""
        self._in_worker = False
        if self.writer.phase is Phase.STOPPED:
            return
        if isinstance(error, LogError):
            self.writer.break_off(error)
        elif error is not None:
            log.warning("owner.failed", partition=self._name, action=repr(action), error=str(error))
            self._fail()
        else:
            self._report_safely(action, result)
        self._pump()
        if self.writer.broken is not None:
            log.error("owner.broken", partition=self._name, error=str(self.writer.broken))

    def _report_safely(self, action: Action, result: Any) -> None:
        """Whatever goes wrong while the writer takes a result in, it begins again from the log."""
        try:
            self._report(action, result)
        except Exception as error:
            log.exception("owner.report_failed", partition=self._name, error=str(error))
            self._append_failed = True
        if self._append_failed:
            self._fail()

    def _delivered(self) -> None:
        """The next transaction may send its records while this one ends."""
        if self._in_worker and self.writer.serving:
            self.writer.delivered()
            self._schedule()

    def _report(self, action: Action, result: Any) -> None:
        match action:
            case Fence():
                self.writer.fenced()
            case FindEnd():
                self.writer.end_found(result)
            case Read():
                self.writer.records_read(*result)
                self._note_takeover()
            case Commit():
                self.writer.committed(*result)
                self.commits += 1
                self._markers.committed()
                self._meter.end(action.records)
                if self.writer.phase is Phase.RESET:  # committed, but not where it must be
                    self.failures += 1
                    self._failed_at = self._lease.clock()
                self._checkpoint_later()
            case Reset():
                self._resumption = self._loop.create_task(self._resume(action.attempt))

    def _note_takeover(self) -> None:
        if self.writer.serving:
            self.takeovers += 1
            sequence = self.writer.state.anchor.sequence
            log.info("owner.serving", partition=self._name, sequence=sequence)

    async def _resume(self, attempt: int) -> None:
        """Back off with jitter, and wait for a group answer that is newer than the failure."""
        ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(attempt, 10))
        await asyncio.sleep(random.uniform(BACKOFF_MIN_S, ceiling))
        while not self._lease.proved_since(self._failed_at):
            await asyncio.sleep(PROOF_POLL_S)
        self.writer.resumed()
        self._schedule()

    def _checkpoint_later(self) -> None:
        """Save after the answers are out: call_soon runs behind the tasks they have woken."""
        if not self._checkpoint_due:
            self._checkpoint_due = True
            self._loop.call_soon(self._checkpoint)

    def _checkpoint(self) -> None:
        due, self._checkpoint_due = self._checkpoint_due, False
        if not due or self._closed:
            return
        try:
            self.writer.state.checkpoint()
            if self.writer.queued:
                self._schedule()  # they may have waited for room
        except Exception as error:  # kept in memory, within a bound; the log has it all
            self.checkpoint_failures += 1
            log.error("owner.checkpoint_failed", partition=self._name, error=str(error))
            self._loop.call_later(CHECKPOINT_RETRY_S, self._checkpoint_later)

    def _work(self) -> None:
        while (action := self._jobs.get()) is not None:
            self._perform(action)
        try:
            self._log.close()
        finally:
            self._loop.call_soon_threadsafe(self._released.set)

    def _perform(self, action: Action) -> None:
        result, failure = None, None
        try:
            result = self._log.perform(action, self._tell_delivered)
        except Exception as error:  # reported to the loop, which begins the takeover again
            failure = error
        self._loop.call_soon_threadsafe(self._done, action, result, failure)
        if isinstance(action, Commit) and failure is None:
            self._run_aside(partial(self._prepare, action.slot))

    def _tell_delivered(self) -> None:
        self._loop.call_soon_threadsafe(self._delivered)

    def _prepare(self, slot: Slot) -> None:
        """Beginning a transaction waits for librdkafka, so it is done beside the next commit."""
        try:
            self._log.prepare(slot)
        except TidelogError as error:  # the append that needs it meets the same error and fails
            log.warning("owner.prepare_failed", partition=self._name, error=str(error))


def not_owner_any_more() -> NotOwner:
    """What waiting commands are told when their partition moves away."""
    return NotOwner("The partition is moving to another instance. Send it again, same key.")
