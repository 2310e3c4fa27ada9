"""One instance of the command service: the shell around the writer, each step of it apart.

It keeps the contract of the real shell: appends are local and immediate; fencing, finding the end,
reading and committing take time; a failed append is told after the outstanding commit's result;
nothing is executed after a stop; answers go out first, the checkpoint is written after them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tidelog.engine.actions import (
    Action,
    Append,
    Commit,
    Fence,
    FindEnd,
    Read,
    Reset,
    Slot,
)
from tidelog.engine.batch import Request
from tidelog.engine.command import Refused
from tidelog.engine.writer import PartitionWriter
from tidelog.errors import NotOwner, TidelogError
from tidelog.memory import MemoryStateStore

from .faults import HEARTBEAT_MS, LEASE_MS
from .group import Membership
from .handle import Handle

if TYPE_CHECKING:
    from .world import World


class Crash(Exception):
    """The process is killed here."""


class Process:
    """A process that may crash, be stopped and go on, and come back with its checkpoint."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.network = world.network
        self.log = world.log
        self.number = number
        self.name = f"p{number}"
        self.store = MemoryStateStore()
        self.alive = False
        self.incarnation = 0
        self.paused_until_ms = 0.0
        self._clock_rate = world.scheduler.between(0.95, 1.05)
        self._forget()

    def _forget(self) -> None:
        """What a process does not remember of its former life."""
        self.writer: PartitionWriter | None = None
        self.generation = 0
        self._handles: dict[Slot, Handle] = {}
        self._lease_until_ms = 0.0
        self._append_failed = False
        self._committing = False
        self._saving = False
        self._losing = False  # the group has taken the partition; the callback is on its way
        self._failed_at_ms: float | None = None

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start again, with the checkpoint that is there."""
        self.incarnation += 1
        self.alive = True
        self._forget()
        self._note("starts")
        self._beat()

    def crash(self) -> None:
        """Die at once; requests that are on their way still arrive."""
        self._note("CRASHES")
        self.alive = False
        for handle in self._handles.values():
            handle.destroyed = True
        self._forget()
        self.world.spoil_checkpoint(self)
        self.scheduler.after(self.scheduler.between(1, 300), self.start)

    def later(self, delay_ms: float, action: Callable[[], None]) -> None:
        """A step of this process: not after a crash, not while it is stopped."""
        incarnation = self.incarnation

        def step() -> None:
            if incarnation != self.incarnation or not self.alive:
                return
            if self.scheduler.now_ms < self.paused_until_ms:
                self.scheduler.after(self.paused_until_ms - self.scheduler.now_ms, step)
                return
            self._step(action)

        self.scheduler.after(delay_ms, step)

    def _step(self, action: Callable[[], None]) -> None:
        try:
            self.crash_point()
            action()
            self.crash_point()
        except Crash:
            self.crash()
            return
        if self.scheduler.chance(self.world.faults.pause):
            pause_ms = self.scheduler.between(5, self.scheduler.random.choice((50, 1_000)))
            self._note(f"is stopped for {pause_ms:.0f} ms")
            self.paused_until_ms = self.scheduler.now_ms + pause_ms

    def crash_point(self) -> None:
        """Maybe the process dies here."""
        if self.scheduler.chance(self.world.faults.crash):
            raise Crash

    # --- membership ---------------------------------------------------------------------------

    def clock_ms(self) -> float:
        """This process's own monotonic clock; clocks do not run equally fast."""
        return self.scheduler.now_ms * self._clock_rate

    def sure(self) -> bool:
        """Whether the lease on the partition holds now."""
        holds = self.clock_ms() < self._lease_until_ms
        return holds or bool(self.world.faults.lease_lies)

    def _beat(self) -> None:
        self._prove()
        self.later(HEARTBEAT_MS, self._beat)

    def _prove(self) -> None:
        """Ask the group whether the partition is ours."""
        asked_ms = self.clock_ms()
        self.network.request(
            f"{self.name} heartbeat",
            lambda: self.world.group.heartbeat(self.number),
            self.later,
            lambda answer: self._membership(asked_ms, answer),
        )

    def _membership(self, asked_ms: float, answer: Any) -> None:
        if not isinstance(answer, Membership) or answer.generation < self.generation:
            return
        if answer.owner:
            if self.writer is None or answer.generation > self.generation:
                self._assigned(answer.generation)
            self._lease_until_ms = max(self._lease_until_ms, asked_ms + LEASE_MS)
            self._resume_after(asked_ms)
            self.pump()
        elif self.writer is not None and not self._losing:
            self._losing = True
            late = self.scheduler.chance(self.world.faults.callback_late)
            generation = self.generation
            self.later(
                self.scheduler.between(0, 1_500 if late else 3),
                lambda: self._revoked(generation),
            )

    def _assigned(self, generation: int) -> None:
        self._stop()
        self.generation = generation
        self._note(f"takes the partition over in generation {generation}")
        self._lease_until_ms = 0.0
        self.writer = self.world.new_writer(self)

    def _revoked(self, generation: int) -> None:
        if generation != self.generation:
            return
        self._note("gives the partition up")
        self._stop()
        self._lease_until_ms = 0.0
        self.network.request(
            f"{self.name} gives up",
            lambda: self.world.group.gave_up(self.number, generation),
            self.later,
            lambda answer: None,
        )

    def _stop(self) -> None:
        if self.writer is not None:
            self.writer.stop(NotOwner("The partition has moved."))
            self._deliver()
        self._destroy_handles()
        self.writer = None
        self._append_failed = self._committing = self._saving = self._losing = False
        self._failed_at_ms = None

    # --- commands -----------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """A command arrives at this process."""
        try:
            if self.writer is None:
                raise NotOwner("This process does not own the partition.")
            self.writer.offer(request)
        except TidelogError as error:
            request.reply(Refused(error))
            return
        self.pump()

    def pump(self) -> None:
        """Decide what waits and do what the writer asks for."""
        writer = self.writer
        if writer is None:
            return
        self._deliver()
        writer.decide(self.sure())
        while (action := writer.next_action()) is not None:
            self.crash_point()
            if self.scheduler.tracing:
                self._note(_described(action))
            self.perform(writer, action)
        self._deliver()
        if writer.state.unsaved() and not self._saving:
            self._saving = True
            self.later(self.scheduler.between(0, 5), self._save)

    def _deliver(self) -> None:
        assert self.writer is not None
        for request, outcome in self.writer.take_answers():
            self.crash_point()
            if not request.is_abandoned():
                request.reply(outcome)

    def _save(self) -> None:
        self._saving = False
        if self.writer is not None:
            self.writer.state.checkpoint()
            if self.scheduler.chance(0.5):
                self.store.flush()

    # --- actions ------------------------------------------------------------------------------

    def perform(self, writer: PartitionWriter, action: Action) -> None:
        """Begin an action; its result comes in a later step, unless the writer is gone by then."""
        match action:
            case Append(slot, begin, records):
                if not self._handles[slot].append(begin, records):
                    self._append_has_failed(writer)
            case Commit(slot):
                self._committing = True
                self._handles[slot].commit(
                    lambda: self._delivered(writer),
                    lambda result: self._commit_ended(writer, result),
                )
            case Fence(slot):
                self.fence(writer, slot)
            case FindEnd():
                self._ask(writer, "find end", self.world.find_end)
            case Read(offset):
                count = self.scheduler.random.choice((0, 1, 3, 1000, 1000))
                self._ask(writer, f"read {offset}", lambda: self.log.read(offset, count))
            case Reset():
                self.reset()

    def fence(self, writer: PartitionWriter, slot: Slot) -> None:
        """Initialise a new handle of the slot."""
        handle = Handle(self, slot.value)
        self._handles[slot] = handle

        def fenced(error: Exception | None) -> None:
            if writer is self.writer:
                writer.failed() if error else writer.fenced()
                self.after_result(error)

        handle.init(fenced)

    def reset(self) -> None:
        """Destroy the handles and ask for a proof of ownership that is newer than the failure."""
        self._destroy_handles()
        self._failed_at_ms = self.clock_ms()
        self._prove()

    def after_result(self, error: object = None) -> None:
        """Whatever comes next."""
        if error is not None and self.scheduler.tracing:
            self._note(f"failed: {error!r}")
        self.pump()

    def _ask(self, writer: PartitionWriter, name: str, apply: Callable[[], Any]) -> None:
        def answer(result: Any) -> None:
            if writer is not self.writer:
                return
            if isinstance(result, Exception):
                writer.failed()
                self.after_result(result)
                return
            if isinstance(result, tuple):
                writer.records_read(*result)
            else:
                writer.end_found(result)
            self.after_result()

        self.network.request(f"{self.name} {name}", apply, self.later, answer)

    def _append_has_failed(self, writer: PartitionWriter) -> None:
        if self._committing:
            self._append_failed = True
        else:
            writer.failed()

    def _delivered(self, writer: PartitionWriter) -> None:
        if writer is self.writer:
            writer.delivered()
            self.later(0.0, self.pump)

    def _commit_ended(self, writer: PartitionWriter, result: Exception | tuple[int, int]) -> None:
        if writer is not self.writer:
            return
        self._committing = False
        failed, self._append_failed = self._append_failed, False
        if isinstance(result, Exception):
            self.uncertain(writer, result)
        else:
            writer.committed(*result)
            if failed and writer.serving:
                writer.failed()
        self.after_result(result if isinstance(result, Exception) else None)

    def uncertain(self, writer: PartitionWriter, error: Exception) -> None:
        """A commit did not end cleanly."""
        writer.failed()

    def _resume_after(self, asked_ms: float) -> None:
        """A proof that was asked for after the failure: go on, after a random while."""
        writer = self.writer
        if writer is None or self._failed_at_ms is None:
            return
        if asked_ms >= self._failed_at_ms:
            self._failed_at_ms = None
            self.later(self.scheduler.between(0, 40), lambda: self._resume(writer))

    def _resume(self, writer: PartitionWriter) -> None:
        if writer is self.writer:
            writer.resumed()
            self.pump()

    def _destroy_handles(self) -> None:
        for handle in self._handles.values():
            handle.destroyed = True
        self._handles = {}

    def _note(self, what: str) -> None:
        if self.scheduler.tracing:
            self.scheduler.note(self.name, what)


def _described(action: Action) -> str:
    match action:
        case Append(slot, begin, records):
            how = "begins and appends" if begin else "appends"
            return f"{how} {len(records)} on {slot.value}"
        case Commit(slot, records):
            return f"commits {records} on {slot.value}"
        case Fence(slot):
            return f"fences {slot.value}"
        case FindEnd():
            return "looks up the end"
        case Read(offset):
            return f"reads from {offset}"
        case Reset(attempt):
            return f"resets, attempt {attempt}"
