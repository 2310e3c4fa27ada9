"""Planted bugs: what happens to the engine or its shell without one of their rules.

Each lives only here, and the simulation must find each of them.
"""

from __future__ import annotations

from typing import Any

from tidelog.engine.actions import (
    Action,
    Commit,
    Fence,
    Phase,
    Slot,
)
from tidelog.engine.batch import Batch, Decider, Request, _first_answer
from tidelog.engine.partition import PartitionState
from tidelog.engine.ports import Checkpoint
from tidelog.engine.writer import PartitionWriter
from tidelog.memory import InvalidTransaction, ProducerFenced

from .network import TransportError
from .process import Process
from .world import Build


class FirstOnB(PartitionWriter):
    """The first transaction of a tenure goes on B: who has lost A may still write."""

    def _serve_if_read(self) -> None:
        super()._serve_if_read()
        self._slot = Slot.B


class OwnOrder(PartitionWriter):
    """Each process fences the ids in its own order and begins with the one fenced last."""

    order = (Slot.A, Slot.B)

    def _next_takeover_step(self) -> Action | None:
        match self.phase:
            case Phase.FENCE_A:
                return Fence(self.order[0])
            case Phase.FENCE_B:
                return Fence(self.order[1])
            case _:
                return super()._next_takeover_step()

    def _serve_if_read(self) -> None:
        super()._serve_if_read()
        self._slot = self.order[1]


class OwnOrderProcess(Process):
    """Odd processes fence B first."""

    def _assigned(self, generation: int) -> None:
        super()._assigned(generation)
        if self.number % 2 and isinstance(self.writer, OwnOrder):
            self.writer.order = (Slot.B, Slot.A)


class OvertakingAppend(PartitionWriter):
    """The next transaction sends records while those of the former are still on their way."""

    def _next_commit(self) -> Commit | None:
        commit = super()._next_commit()
        self._delivered = True
        return commit


class EndBeforeFence(PartitionWriter):
    """The end of the log is looked up first and the ids are fenced afterwards."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._early_end = 0
        self.phase = Phase.FIND_END

    def end_found(self, watermark: int) -> None:
        self._busy = False
        self._early_end = watermark
        self.phase = Phase.FENCE_A

    def fenced(self) -> None:
        super().fenced()
        if self.phase is Phase.FIND_END:
            super().end_found(self._early_end)

    def resumed(self) -> None:
        super().resumed()
        self.phase = Phase.FIND_END


class NoReadBack(PartitionWriter):
    """An uncertain commit counts as failed: the log is not read again."""

    _has_served = False

    def end_found(self, watermark: int) -> None:
        if not self._has_served:
            super().end_found(watermark)
            return
        self._busy = False
        self.replay.watermark = self.replay.offset = watermark
        self._serve_if_read()

    def _serve_if_read(self) -> None:
        super()._serve_if_read()
        self._has_served = self._has_served or self.serving


class OptimisticProcess(Process):
    """An uncertain commit counts as done."""

    def uncertain(self, writer: PartitionWriter, error: Exception) -> None:
        batch = writer._committing
        if isinstance(error, TransportError) and batch is not None:
            first = writer._expected_offset
            writer.committed(first, first + len(batch.records) - 1)
        else:
            super().uncertain(writer, error)


class RefusesWithoutLease(PartitionWriter):
    """Answers that no commit proves are given without a lease."""

    def _collect(self, sure: bool) -> set[str]:
        return super()._collect(sure=True)


class BeginsWithoutLease(PartitionWriter):
    """The first transaction of a tenure is begun without a lease: the fence alone should do."""

    def decide(self, sure: bool) -> None:
        if sure or self._proven or self._committing is not None:
            super().decide(sure)
            return
        self._proven = True
        super().decide(sure)
        self._proven = False


class SameHandleProcess(Process):
    """After an uncertain commit it aborts and goes on with the same handle and epoch."""

    def reset(self) -> None:
        self._failed_at_ms = self.clock_ms()
        self._prove()

    def fence(self, writer: PartitionWriter, slot: Slot) -> None:
        handle = self._handles.get(slot)
        if handle is None or handle.epoch < 0:
            super().fence(writer, slot)
            return

        def aborted(error: Exception | None) -> None:
            if writer is not self.writer:
                return
            if isinstance(error, ProducerFenced):
                super(SameHandleProcess, self).fence(writer, slot)
            elif error is None or isinstance(error, InvalidTransaction):
                writer.fenced()
                self.after_result()
            else:
                writer.failed()
                self.after_result(error)

        handle.abort(aborted)


class ForgetfulState(PartitionState):
    """A replay folds the aggregates and leaves the seen commands out."""

    def _fold(self, offset: int, metadata: Any, event: Any) -> None:
        super()._fold(offset, metadata, event)
        del self._seen.dirty[metadata.causation_id]


class ForgetfulReplay(PartitionWriter):
    """The idempotency table is not part of the replay."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.state.__class__ = ForgetfulState


class EarlyCheckpoint(PartitionWriter):
    """The checkpoint is written when the commit is sent, not when it is certain."""

    def _next_commit(self) -> Commit | None:
        commit = super()._next_commit()
        batch = self._committing
        if commit is not None and batch is not None:
            state = self.state
            state._store.write(Checkpoint(batch.entries, batch.seen, state.anchor, ""))
        return commit


class HastyDecider(Decider):
    """A second request with the same id is answered while the first is not committed yet."""

    def decide(self, request: Request, batch: Batch, committing: Batch | None) -> None:
        for earlier in (committing, batch):
            seen = earlier.seen.get(request.envelope.command_id) if earlier else None
            if seen is not None:
                self._certain.append((request, _first_answer(seen, request)))
                return
        super().decide(request, batch, committing)


class HastyFollowers(PartitionWriter):
    """Followers do not wait for the commit."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._decider.__class__ = HastyDecider


_QUIET = {
    "crash": 0.0,
    "pause": 0.0,
    "poison": 0.0,
    "lose_request": 0.0,
    "lose_answer": 0.0,
    "late_request": 0.0,
    "broker_refuses": 0.0,
    "foreign": 0.0,
}

DUEL = _QUIET | {"lease_lies": 1.0, "latency_ms": 25.0, "rebalance": 0.25, "wrong_door": 0.5}
"""Two processes take over at the same time and both believe that they may."""

DEPOSED = {
    "lease_lies": 0.0,
    "rebalance": 0.25,
    "callback_late": 1.0,
    "late_answer": 0.1,
    "crash": 0.0,
    "pause": 0.0,
    "poison": 0.0,
    "lose_request": 0.0,
    "lose_answer": 0.0,
    "late_request": 0.0,
    "broker_refuses": 0.0,
    "foreign": 0.0,
    "latency_ms": 2.0,
    "wrong_door": 0.25,
}
"""A process hears late that it has lost the partition, and clients still ask it."""

LATE = {
    "lease_lies": 0.0,
    "late_request": 0.2,
    "lose_request": 0.0,
    "lose_answer": 0.0,
    "rebalance": 0.0,
    "crash": 0.0,
    "pause": 0.0,
    "broker_refuses": 0.0,
    "latency_ms": 25.0,
}
"""Requests arrive after they were given up."""

SEEDS_MAX = {
    "own-fencing-order": 20,
    "overtaking-append": 60,
    "end-before-fence": 100,
    "last-stable-offset": 60,
    "no-read-back": 30,
    "uncertain-is-success": 20,
    "refuses-without-lease": 150,
    "same-handle": 40,
    "forgetful-replay": 30,
    "early-checkpoint": 20,
    "hasty-followers": 80,
}
"""Within so many seeds each of them must be found; two others are written out as scripts."""

_PLANTED = (
    Build(name="first-on-b", writer=FirstOnB, emphasis=DUEL, patience=4),
    Build(
        name="own-fencing-order",
        writer=OwnOrder,
        process=OwnOrderProcess,
        emphasis=DUEL,
        patience=2,
    ),
    Build(name="overtaking-append", writer=OvertakingAppend),
    Build(name="end-before-fence", writer=EndBeforeFence, emphasis=DUEL, patience=4),
    Build(name="last-stable-offset", find_end=lambda log: log.last_stable_offset),
    Build(name="no-read-back", writer=NoReadBack),
    Build(name="uncertain-is-success", process=OptimisticProcess),
    Build(name="refuses-without-lease", writer=RefusesWithoutLease, emphasis=DEPOSED, patience=4),
    Build(name="begins-without-lease", writer=BeginsWithoutLease, emphasis=DEPOSED, patience=4),
    Build(name="same-handle", process=SameHandleProcess, emphasis=LATE, patience=2),
    Build(name="forgetful-replay", writer=ForgetfulReplay),
    Build(name="early-checkpoint", writer=EarlyCheckpoint),
    Build(name="hasty-followers", writer=HastyFollowers),
)

BUGS = {build.name: build for build in _PLANTED}
