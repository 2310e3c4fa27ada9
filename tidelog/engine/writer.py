"""The one writer of a partition: fencing, takeover, group commit and recovery, without any I/O.

The driver asks `next_action()` what to do, does it, and tells the writer how it went. Commands
come in by `offer`, answers go out by `take_answers`. The same object runs on Kafka and in the
simulation.

A tenure begins with Fence(A), Fence(B), FindEnd and Read until the end. Then commands are decided
against the state in memory plus the overlay of what is not yet committed, and appended in
transactions that use the two transactional ids in turn: while one commits, the next gathers.

Three rules keep two writers apart (the simulation shows what breaks without each):
- ids are fenced in the order A, then B, and the end of the log is looked up after both;
- the first transaction of a tenure goes on A and holds a record, and B is used only after that
  transaction has committed. Whoever has lost A never writes;
- until that first commit nothing is decided without a lease that holds after the fences. So one
  whose fence was late, when the partition had another owner already, cannot write behind the back
  of that owner, who answers refusals from memory on the strength of its own lease.

Anything but a clean commit is uncertain. There is one way out of it: destroy both handles, wait
for a newer proof of ownership, take over afresh, read the log to its end, answer what is found
there, and decide the rest again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidelog.aggregate import Aggregate
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
from tidelog.engine.batch import Batch, Decider, Request
from tidelog.engine.command import Outcome, Refused
from tidelog.engine.partition import PartitionState
from tidelog.engine.ports import Anchor, Limits, StateStore, StoredRecord, Tools
from tidelog.engine.replay import Replay
from tidelog.engine.waiting import WaitingCommands
from tidelog.errors import LogError, NotOwner, TidelogError, Unavailable

UNKNOWN = "The outcome is not known yet. Send it again with the same key."


class PartitionWriter:
    """The writer of one partition. Not thread-safe: one driver calls it."""

    def __init__(
        self,
        *,
        context: str,
        partition: int,
        aggregate: Aggregate[Any, Any, Any],
        store: StateStore,
        tools: Tools,
        limits: Limits,
    ) -> None:
        self.context = context
        self.partition = partition
        self.state = PartitionState(aggregate, store, limits)
        self.phase = Phase.FENCE_A
        self.broken: TidelogError | None = None
        self.replay = Replay(self.state, tools.codec, limits, f"{context}.events[{partition}]")
        self._decider = Decider(aggregate, self.state, tools, limits)
        self._tools = tools
        self._limits = limits
        self._waiting = WaitingCommands(limits)
        self._answers: list[tuple[Request, Outcome]] = []
        self._busy = False  # an action that takes time is under way
        self._slot = Slot.A
        self._proven = False  # this tenure's first commit on A has succeeded
        self._open: Batch | None = None
        self._begun = False  # the open batch's transaction has begun
        self._committing: Batch | None = None
        self._delivered = False  # the committing batch's records have their offsets
        self._expected_offset = 0  # where our next record lands, but for markers
        self._attempt = 0

    def offer(self, request: Request) -> None:
        """Queue a command. Raises Overloaded where the queue is full, and why it cannot serve."""
        if self.broken is not None:
            raise Unavailable(f"This partition is stopped: {self.broken}")
        if self.phase is Phase.STOPPED:
            raise NotOwner("This partition has moved to another instance.")
        self._waiting.add(request)

    def take_answers(self) -> list[tuple[Request, Outcome]]:
        """The answers since the last call, in the order in which they became certain."""
        answers, self._answers = self._answers, []
        return answers

    def decide(self, sure: bool) -> None:
        """Decide waiting commands, as many as the open batch may hold.

        `sure` says that the driver's lease on the partition holds now. Without it, an answer that
        no commit will prove (a refusal, a command that changed nothing) becomes NotOwner, and so
        does what follows for its key; before this tenure's first commit nothing is decided at all.
        """
        if self.phase is not Phase.SERVING or not (sure or self._proven):
            return
        unsure: set[str] = set()
        if self.state.unsaved() >= self._limits.unsaved_max:
            return  # the checkpoint cannot be saved; what waits is bounded by the queue
        while self._waiting and self._may_gather():
            alone = self._waiting.alone
            request = self._waiting.take()
            if request.is_abandoned():
                continue
            if request.envelope.key in unsure:
                self._answers.append((request, _unsure()))
                continue
            batch = self._open or Batch(self._next_sequence(), alone=alone)
            self._decider.decide(request, batch, self._committing)
            unsure |= self._collect(sure)
            if batch.records:
                self._open = batch

    def next_action(self) -> Action | None:
        """What the driver does next. At most one action that takes time is under way."""
        if self.phase is Phase.SERVING:
            return self._next_append() or self._next_commit()
        if self._busy:
            return None
        action = self._next_takeover_step()
        self._busy = action is not None
        return action

    def _next_append(self) -> Append | None:
        batch = self._open
        if batch is None or batch.appended == len(batch.records):
            return None
        if self._committing is not None and not self._delivered:
            return None  # sent beside them, these records could overtake the earlier ones
        records = batch.records[batch.appended :]
        batch.appended = len(batch.records)
        begin, self._begun = not self._begun, True
        return Append(self._slot, begin, records)

    def _next_commit(self) -> Commit | None:
        if self._busy or self._open is None:
            return None
        batch, self._open = self._open, None
        self._committing, self._busy, self._begun = batch, True, False
        self._delivered = False
        slot, self._slot = self._slot, self._slot.other
        return Commit(slot, len(batch.records))

    def _next_takeover_step(self) -> Action | None:
        match self.phase:
            case Phase.FENCE_A:
                return Fence(Slot.A)
            case Phase.FENCE_B:
                return Fence(Slot.B)
            case Phase.FIND_END:
                return FindEnd()
            case Phase.REPLAY:
                return Read(self.replay.offset)
            case Phase.RESET:
                return Reset(self._attempt)
            case _:
                return None

    def fenced(self) -> None:
        """A Fence succeeded."""
        self._busy = False
        self.phase = Phase.FENCE_B if self.phase is Phase.FENCE_A else Phase.FIND_END

    def end_found(self, watermark: int) -> None:
        """FindEnd succeeded: offsets below `watermark` exist."""
        self._busy = False
        self.phase = Phase.REPLAY
        self.replay.begin(watermark)
        self._serve_if_read()

    def records_read(self, records: Sequence[StoredRecord], position: int) -> None:
        """A Read succeeded; `position` is the next offset to read, markers included.

        What lies beyond the end that was found is somebody else's, and may be half a command.
        """
        self._busy = False
        try:
            self.replay.take(records, position)
        except LogError as error:
            self.break_off(error)
        else:
            self._serve_if_read()

    def delivered(self) -> None:
        """The broker has acknowledged all records of the transaction that is being committed.

        Only then may the next transaction send records, for it uses another connection: the order
        of sequences must be the order of offsets. A driver that never says so appends later.
        """
        self._delivered = True

    def committed(self, first_offset: int, last_offset: int) -> None:
        """A Commit succeeded cleanly; its records landed from `first_offset` to `last_offset`."""
        batch = self._committing
        assert batch is not None, "a commit was under way"
        if not batch.landed(self._expected_offset, first_offset, last_offset):
            self.failed()
            return
        anchor = Anchor(batch.last_sequence, last_offset, batch.last_message_id)
        self.state.publish(batch.entries, batch.seen, anchor)
        self._committing = None  # until here a fault leaves it to be tried again
        self._busy, self._proven, self._attempt = False, True, 0
        self._expected_offset = last_offset + 1
        self._answers.extend(batch.outcomes)
        self._waiting.put_first(batch.followers)

    def failed(self) -> None:
        """An action failed or its outcome is uncertain: produce nothing more, begin again."""
        self._busy = False
        self.phase = Phase.RESET
        self._attempt += 1
        tired = self._waiting.try_again(self._uncommitted())
        self._open = self._committing = None
        self._begun = self._proven = False
        self._slot = Slot.A
        self._answers.extend((request, Refused(Unavailable(UNKNOWN))) for request in tired)

    def resumed(self) -> None:
        """A Reset is done, and the group has said since that this process is the assignee."""
        self._busy = False
        self.phase = Phase.FENCE_A

    def stop(self, error: TidelogError) -> None:
        """The partition is no longer ours: refuse all that has no certain answer yet."""
        for batch in self._uncommitted():
            self._answers.extend((request, Refused(error)) for request in batch.unanswered)
        self._answers.extend((request, Refused(error)) for request in self._waiting.take_all())
        self._open = self._committing = None
        self._busy = False
        self.phase = Phase.STOPPED

    @property
    def serving(self) -> bool:
        """Whether the takeover is complete."""
        return self.phase is Phase.SERVING

    @property
    def idle(self) -> bool:
        """Whether no command is waiting, open or committing."""
        return not self._waiting and self._open is None and self._committing is None

    @property
    def queued(self) -> int:
        """How many commands wait to be decided."""
        return len(self._waiting)

    def _may_gather(self) -> bool:
        """Whether one more command may join the open batch."""
        alone = self._waiting.alone or not self._proven
        committing = self._committing
        if committing is not None and (alone or committing.alone):
            return False
        if self._open is None:
            return True
        return (
            not self._open.alone
            and len(self._open.outcomes) < self._limits.batch_commands_max
            and self._open.bytes < self._limits.batch_bytes_max
        )

    def _uncommitted(self) -> list[Batch]:
        return [batch for batch in (self._committing, self._open) if batch is not None]

    def _next_sequence(self) -> int:
        behind = self._committing.last_sequence if self._committing else self.state.anchor.sequence
        return behind + 1

    def _collect(self, sure: bool) -> set[str]:
        """Pass on the answers that no commit has to prove; the keys whose answer is not sure."""
        self._answers.extend(self._decider.take_certain())
        unproven = self._decider.take_unproven()
        self._answers.extend((asked, found if sure else _unsure()) for asked, found in unproven)
        return set() if sure else {asked.envelope.key for asked, _ in unproven}

    def break_off(self, error: TidelogError) -> None:
        """The log is not what it must be: stop for good, loudly, so that nothing is built on it."""
        self.broken = error
        self.stop(Unavailable(f"This partition is stopped: {error}"))
        self.phase = Phase.BROKEN

    def _serve_if_read(self) -> None:
        """Begin to serve once everything below the end that was found has been taken in."""
        if not self.replay.complete:
            return
        if self.state.unsaved():
            self.state.checkpoint()
        self._expected_offset = self.replay.watermark
        self._slot = Slot.A
        self._proven = False
        self.phase = Phase.SERVING


def _unsure() -> Refused:
    return Refused(NotOwner("It is not certain that this instance owns the key. Try again."))
