"""What must be true: checked as records become readable, as answers are given, and at the end.

I1  the events of an acknowledged command are in the log exactly once, contiguous, in order
I2  a refused command left nothing; one without an answer left all of its events or none
I3  the versions of an aggregate are 1, 2, 3, … and each event is legal in the state before it
I10 sequences are 1, 2, 3, … in offset order: no fork, no hole, nothing from a deposed writer

In some runs every lease lies. Then the fences alone must keep the log whole and acknowledged
commands in it; answers that no commit proves (refusals, replays) are not judged in those runs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tidelog.engine.command import MUST_EXIST, Outcome, Recorded, Refused, Unchanged
from tidelog.engine.judge import Progress, Verdict, judge
from tidelog.engine.partition import PartitionState
from tidelog.engine.ports import Checkpoint, Entry, Seen, StoredRecord
from tidelog.errors import (
    CommandFault,
    IdempotencyKeyReused,
    Invalid,
    Rejected,
    StaleVersion,
    Unavailable,
)
from tidelog.memory import MemoryLog, MemoryStateStore
from tidelog.wire import EventMetadata, read_event_headers

from .client import KEYS, Attempt, Operation
from .domain import Account, codec, decide, evolve
from .scheduler import Violation

if TYPE_CHECKING:
    from .process import Process

INITIAL = Entry(0, 0, Account())


class Checker:
    """Reads the log as it grows, remembers every answer, and compares."""

    def __init__(self, log: MemoryLog, *, leases_hold: bool) -> None:
        self._log = log
        self._leases_hold = leases_hold
        self._position = 0
        self._progress = Progress()
        self._records: list[StoredRecord] = []
        self._events: list[tuple[EventMetadata, Any]] = []
        self._history: dict[str, list[Entry]] = {key: [INITIAL] for key in KEYS}
        self._operations: dict[tuple[str, str], Operation] = {}
        self._attempts: list[Attempt] = []
        self._observed_version: dict[str, int] = defaultdict(int)
        self.foreign = 0
        self.recorded = 0

    # --- the log as it grows ------------------------------------------------------------------

    def read_on(self) -> None:
        """Read what has become readable; a gapless count, and legal events only."""
        records, self._position = self._log.read(self._position)
        for record in records:
            self._records.append(record)
            self._take_in(record)

    def _take_in(self, record: StoredRecord) -> None:
        if not any(name == "ce_sequence" for name, _ in record.headers):
            self.foreign += 1
            return
        metadata = read_event_headers(record.headers)
        verdict = judge(self._progress, record.offset, metadata.sequence)
        _check(
            verdict is Verdict.NEXT,
            f"I10: a {verdict.value} at offset {record.offset}: sequence {metadata.sequence} "
            f"after {self._progress.sequence}",
        )
        self._progress = Progress(metadata.sequence, record.offset)
        history = self._history[metadata.subject]
        _check(
            metadata.version == history[-1].version + 1,
            f"I3: version {metadata.version} of {metadata.subject} after {history[-1].version}",
        )
        event: Any = codec.decode(record.value or b"")
        state: Any = evolve(history[-1].state, event)  # type: ignore[arg-type]
        _check(state.balance >= 0, f"I3: {metadata.subject} is overdrawn")
        history.append(Entry(metadata.version, metadata.sequence, state))
        self._events.append((metadata, event))

    # --- answers ------------------------------------------------------------------------------

    def known(self, key: str) -> int:
        """The highest version that any client has been told."""
        return self._observed_version[key]

    def register(self, operation: Operation) -> Operation:
        """Remember what was asked under this id and content."""
        self._operations[operation.command_id, operation.content] = operation
        return operation

    def attempt(self, operation: Operation) -> Attempt:
        """A client sends the operation now."""
        attempt = Attempt(operation, self.known(operation.command.account_id))
        self._attempts.append(attempt)
        return attempt

    def answered(self, attempt: Attempt, outcome: Outcome) -> None:
        """A process answers: once, and never from a state older than what someone had seen."""
        _check(attempt.outcome is None, f"{attempt.operation.command_id}: a second answer")
        attempt.outcome = outcome
        if not self._leases_hold:
            return
        version = _judged_by(outcome)
        _check(
            version is None or version >= attempt.version_floor,
            f"linearizability: {attempt.operation.command_id} was judged by version {version} of "
            f"{attempt.operation.command.account_id}, after someone had been told version "
            f"{attempt.version_floor}: {outcome}",
        )

    def observed(self, attempt: Attempt, outcome: Outcome) -> None:
        """The answer arrives: from now on nobody may be told of an older state."""
        key = attempt.operation.command.account_id
        known = isinstance(outcome, Recorded | Unchanged)
        version = outcome.version if known else _judged_by(outcome) or 0  # type: ignore[union-attr]
        self._observed_version[key] = max(self._observed_version[key], version)

    def checkpoint_written(self, checkpoint: Checkpoint) -> None:
        """A checkpoint never reaches further than what is certain."""
        anchor = checkpoint.anchor
        record = self._log.decided(anchor.offset)
        held = dict(record.headers)["ce_id"].decode() if record else "nothing certain"
        _check(
            anchor.sequence == 0 or held == anchor.message_id,
            f"a checkpoint is anchored at offset {anchor.offset}, where there is {held}",
        )

    # --- at the end ---------------------------------------------------------------------------

    def check_all(self, processes: list[Process]) -> None:
        """Everything that can be checked when the faults have stopped and all is answered."""
        self.read_on()
        _check(
            self._log.read(0)[0] == self._records,
            "what was read once reads differently",
        )
        seen = self._commands_in_log()
        self.recorded = len(seen)
        for attempt in self._attempts:
            self._check_answer(attempt, seen)
        self._check_nothing_unasked(seen)
        for process in processes:
            if process.writer is not None and process.writer.serving:
                state = process.writer.state
                self._check_fold(f"{process.name}'s memory", state, state.anchor.sequence)
            anchor = process.store.anchor()
            if anchor.message_id != "of-no-log":
                self._check_fold(f"{process.name}'s checkpoint", process.store, anchor.sequence)

    def _commands_in_log(self) -> dict[str, Seen]:
        """Each command's events: complete, contiguous, once (I1, I2)."""
        found: dict[str, list[tuple[EventMetadata, Any]]] = defaultdict(list)
        for metadata, event in self._events:
            found[metadata.causation_id].append((metadata, event))
        seen = {}
        for command_id, events in found.items():
            first, last = events[0][0], events[-1][0]
            operation = self._operations[command_id, first.command_hash]
            before = self._history[first.subject][first.version - 1]
            _check(
                decide(operation.command, before.state) == [event for _, event in events],  # type: ignore[arg-type]
                f"I1/I2: {command_id} asked {operation.command} and left "
                f"{[(m.sequence, e) for m, e in events]}",
            )
            _check(
                last.sequence - first.sequence == len(events) - 1,
                f"I1: the events of {command_id} are not contiguous",
            )
            _check(
                _meets(operation.expected_version, before.version),
                f"{command_id} was recorded against its If-Match",
            )
            happened = tuple((type(event).__name__, m.sequence) for m, event in events)
            seen[command_id] = Seen(
                first.command_hash,
                first.subject,
                last.version,
                happened,
                last.recorded_at,
            )
        return seen

    def _check_answer(self, attempt: Attempt, seen: dict[str, Seen]) -> None:
        operation, outcome = attempt.operation, attempt.outcome
        left = seen.get(operation.command_id)
        if not self._leases_hold and not _proven_by_commit(outcome):
            return
        if isinstance(outcome, Recorded):
            told = (operation.content, outcome.version, outcome.events)
            there = (left.command_hash, left.version, left.events) if left else None
            _check(
                told == there,
                f"I1: {operation.command_id} was told {told}, there is {there}",
            )
        elif isinstance(outcome, Unchanged):
            entry = self._at(operation, outcome.version)
            _check(
                entry.sequence == outcome.sequence,
                f"{operation.command_id}: wrong sequence",
            )
            _check(
                decide(operation.command, entry.state) == [],  # type: ignore[arg-type]
                f"{operation.command_id} changed nothing, but it would have",
            )
        elif isinstance(outcome, Refused):
            self._check_refusal(operation, outcome, left)

    def _check_refusal(self, operation: Operation, refused: Refused, left: Seen | None) -> None:
        name, error = operation.command_id, refused.error
        match error:
            case StaleVersion(actual_version=version):
                self._at(operation, version)
                _check(
                    not _meets(operation.expected_version, version),
                    f"{name}: 412 is wrong",
                )
            case Rejected():
                entry = self._at(operation, int(str(error)))
                try:
                    decide(operation.command, entry.state)  # type: ignore[arg-type]
                except Rejected:
                    return
                raise Violation(f"{name}: 409 is wrong at version {entry.version}")
            case IdempotencyKeyReused():
                used = left is not None and left.command_hash != operation.content
                _check(used, f"{name}: 422, but the key was not used with other content")
            case Invalid():
                _check(operation.harm == "size", f"{name}: 422 is wrong")
            case CommandFault():
                _check(operation.harm in ("decide", "encode"), f"{name}: 500 is wrong")
            case _:
                _check(isinstance(error, Unavailable), f"{name}: {error!r}")

    def _check_nothing_unasked(self, seen: dict[str, Seen]) -> None:
        """I2: what every process refused left nothing; each command is recorded once, not twice."""
        fresh: dict[str, int] = defaultdict(int)
        open_to: set[tuple[str, str]] = set()
        for attempt in self._attempts:
            operation, outcome = attempt.operation, attempt.outcome
            unknown = outcome is None or (
                isinstance(outcome, Refused) and isinstance(outcome.error, Unavailable)
            )
            if unknown or isinstance(outcome, Recorded):
                open_to.add((operation.command_id, operation.content))
            if isinstance(outcome, Recorded) and not outcome.replayed:
                fresh[operation.command_id] += 1
        for command_id, left in seen.items():
            _check(
                (command_id, left.command_hash) in open_to,
                f"I2: {command_id} was refused",
            )
            twice = self._leases_hold and fresh[command_id] > 1
            _check(not twice, f"{command_id}: two first answers")

    def _at(self, operation: Operation, version: int) -> Entry:
        history = self._history[operation.command.account_id]
        _check(
            version < len(history),
            f"{operation.command_id} was judged by version {version}, which never was",
        )
        return history[version]

    def _check_fold(
        self, where: str, held: PartitionState | MemoryStateStore, sequence: int
    ) -> None:
        """What is held is the fold of the log up to the sequence: aggregates and seen commands."""
        for key, history in self._history.items():
            truth = max(
                (entry for entry in history if entry.sequence <= sequence),
                key=lambda entry: entry.version,
            )
            entry = held.entry(key) or INITIAL
            _check(entry == truth, f"{where} has {key} as {entry}, the log as {truth}")
        for command_id, seen in self._commands_in_log().items():
            if seen.events[0][1] > sequence:
                _check(held.seen(command_id) is None, f"{where} saw {command_id} too early")
            elif seen.events[-1][1] <= sequence:
                _check(held.seen(command_id) == seen, f"{where} forgot {command_id}")


def _judged_by(outcome: Outcome) -> int | None:
    """The version that an answer without events was judged by."""
    match outcome:
        case Unchanged(version=version):
            return version
        case Refused(error=StaleVersion(actual_version=version)):
            return version
        case Refused(error=Rejected() as error):
            return int(str(error))
        case _:
            return None


def _proven_by_commit(outcome: Outcome | None) -> bool:
    """Whether the answer is as good as the log, also where no lease can be trusted."""
    return isinstance(outcome, Recorded) and not outcome.replayed


def _meets(expected_version: int | None, version: int) -> bool:
    return expected_version is None or (
        version > 0 if expected_version == MUST_EXIST else version == expected_version
    )


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)
