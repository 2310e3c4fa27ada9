"""A transaction in the making: commands are decided one by one against state plus overlay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tidelog.aggregate import Aggregate
from tidelog.engine.command import (
    MUST_EXIST,
    Envelope,
    Outcome,
    Recorded,
    Refused,
    Unchanged,
)
from tidelog.engine.partition import PartitionState
from tidelog.engine.ports import Entry, Limits, OutgoingRecord, Seen, Tools
from tidelog.errors import (
    CommandFault,
    IdempotencyKeyReused,
    Invalid,
    Rejected,
    StaleVersion,
)
from tidelog.message import Event
from tidelog.wire import EventMetadata, event_headers

Answer = tuple["Request", Outcome]

MARKERS_MAX = 2
"""Each of the two ids may have one transaction marker that is not written yet."""


def waited_for() -> bool:
    """Nobody has given up waiting."""
    return False


class Request(msgspec.Struct, kw_only=True, eq=False):
    """A command that waits for its answer; abandoned before it is decided, it is dropped."""

    envelope: Envelope
    reply: Callable[[Outcome], None]
    is_abandoned: Callable[[], bool] = waited_for
    attempts: int = 0
    recorded: bool = False  # its events were in the last transaction that failed


class Batch:
    """What one transaction will hold, and who is answered when it has committed.

    `alone`: it holds one command that was in a transaction that failed, and nothing beside it.
    """

    def __init__(self, first_sequence: int, *, alone: bool = False) -> None:
        self.alone = alone
        self.next_sequence = first_sequence
        self.records: list[OutgoingRecord] = []
        self.appended = 0
        self.bytes = 0
        self.entries: dict[str, Entry] = {}
        self.seen: dict[str, Seen] = {}
        self.outcomes: list[Answer] = []
        self.followers: list[Request] = []
        self.last_message_id = ""

    def landed(self, expected_offset: int, first_offset: int, last_offset: int) -> bool:
        """Whether its records lie where they must: only markers of the two ids between them."""
        before = first_offset - expected_offset
        between = last_offset - first_offset - (len(self.records) - 1)
        return 0 <= before <= MARKERS_MAX and 0 <= between <= MARKERS_MAX

    @property
    def unanswered(self) -> list[Request]:
        """The commands that wait for its commit, in their order."""
        return [*(request for request, _ in self.outcomes), *self.followers]

    @property
    def last_sequence(self) -> int:
        """The sequence of its last record."""
        return self.next_sequence - 1


class Decider:
    """Decides commands; keeps the answers that need no commit until the writer collects them."""

    def __init__(
        self,
        aggregate: Aggregate[Any, Any, Any],
        state: PartitionState,
        tools: Tools,
        limits: Limits,
    ) -> None:
        self._aggregate = aggregate
        self._state = state
        self._tools = tools
        self._limits = limits
        self._certain: list[Answer] = []
        self._unproven: list[Answer] = []

    def take_certain(self) -> list[Answer]:
        """Answers that are certain already: they are about events in the log."""
        taken, self._certain = self._certain, []
        return taken

    def take_unproven(self) -> list[Answer]:
        """Answers that hold only if this process still owns the partition."""
        taken, self._unproven = self._unproven, []
        return taken

    def decide(self, request: Request, batch: Batch, committing: Batch | None) -> None:
        """Decide one command: its events join `batch`, or its answer is set aside.

        One bad command harms only itself: whatever it raises is its own answer.
        """
        try:
            self._decide(request, batch, committing)
        except Exception as fault:
            error = CommandFault(f"{type(request.envelope.command).__name__} could not be decided.")
            error.__cause__ = fault
            self._unproven.append((request, Refused(error)))

    def _decide(self, request: Request, batch: Batch, committing: Batch | None) -> None:
        envelope = request.envelope
        for earlier in (committing, batch):
            if earlier is not None and envelope.command_id in earlier.seen:
                earlier.followers.append(request)
                return
        seen = self._state.seen(envelope.command_id)
        if seen is not None:
            self._certain.append((request, _first_answer(seen, request)))
            return
        owner = _last_to_touch(envelope.key, batch, committing)
        entry = owner.entries[envelope.key] if owner else self._state.entry(envelope.key)
        outcome = self._outcome(envelope, entry, batch)
        if isinstance(outcome, Recorded):
            batch.outcomes.append((request, outcome))
        elif owner is not None:
            owner.outcomes.append((request, outcome))
        else:
            self._unproven.append((request, outcome))

    def _outcome(self, envelope: Envelope, entry: Entry, batch: Batch) -> Outcome:
        refusal = _precondition(envelope.expected_version, entry)
        if refusal is not None:
            return refusal
        try:
            events = self._aggregate.decide(envelope.command, entry.state)
            if not events:
                return Unchanged(version=entry.version, sequence=entry.sequence)
            return self._record(envelope, entry, list(events), batch)
        except (Rejected, Invalid) as refused:
            return Refused(refused)
        except Exception as fault:  # one bad command harms only itself
            error = CommandFault(f"{type(envelope.command).__name__} could not be decided.")
            error.__cause__ = fault
            return Refused(error)

    def _record(
        self, envelope: Envelope, entry: Entry, events: list[Event], batch: Batch
    ) -> Recorded:
        """Encode the events and fold them; the batch changes only if all of them succeed."""
        records, happened = [], []
        message_id, recorded_at, size = "", self._tools.now(), 0
        for number, event in enumerate(events):
            message_id = self._tools.new_id()
            sequence = batch.next_sequence + number
            record = self._encode(
                envelope, event, message_id, recorded_at, sequence, entry.version + 1
            )
            entry = Entry(entry.version + 1, sequence, self._aggregate.evolve(entry.state, event))
            size += self._measured(record)
            records.append(record)
            happened.append((type(event).__name__, sequence))
        outcome = Recorded(version=entry.version, events=tuple(happened))
        batch.records += records
        batch.bytes += size
        batch.next_sequence += len(records)
        batch.last_message_id = message_id
        batch.entries[envelope.key] = entry
        batch.seen[envelope.command_id] = Seen(
            envelope.command_hash,
            envelope.key,
            entry.version,
            outcome.events,
            recorded_at,
        )
        return outcome

    def _encode(
        self,
        envelope: Envelope,
        event: Event,
        message_id: str,
        recorded_at: str,
        sequence: int,
        version: int,
    ) -> OutgoingRecord:
        context = self._aggregate.context
        metadata = EventMetadata(
            message_id=message_id,
            type=context.full_name(type(event)),
            subject=envelope.key,
            recorded_at=recorded_at,
            sequence=sequence,
            version=version,
            correlation_id=envelope.correlation_id,
            causation_id=envelope.command_id,
            command_hash=envelope.command_hash,
            traceparent=envelope.traceparent,
        )
        value = self._tools.codec.encode(event)
        return OutgoingRecord(envelope.key.encode(), value, event_headers(metadata, context.source))

    def _measured(self, record: OutgoingRecord) -> int:
        size = len(record.key) + len(record.value) + HEADERS_BYTES
        if size > self._limits.record_bytes_max:
            raise Invalid(f"The event would be larger than {self._limits.record_bytes_max} bytes.")
        return size


HEADERS_BYTES = 1_536
"""What the headers of one record take at most (ids and correlation ids are bounded)."""


def _precondition(expected_version: int | None, entry: Entry) -> Refused | None:
    if expected_version is None:
        return None
    met = entry.version > 0 if expected_version == MUST_EXIST else entry.version == expected_version
    return None if met else Refused(StaleVersion(entry.version))


def _last_to_touch(key: str, batch: Batch, committing: Batch | None) -> Batch | None:
    """The youngest uncommitted batch in which the aggregate has changed."""
    if key in batch.entries:
        return batch
    if committing is not None and key in committing.entries:
        return committing
    return None


def _first_answer(seen: Seen, request: Request) -> Outcome:
    if seen.command_hash != request.envelope.command_hash or seen.key != request.envelope.key:
        return Refused(IdempotencyKeyReused())
    # After an uncertain commit the first request itself finds its events here: no replay.
    return Recorded(version=seen.version, events=seen.events, replayed=not request.recorded)
