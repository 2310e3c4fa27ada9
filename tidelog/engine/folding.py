"""Folding: a batch of records becomes rows to write and the progress to write with them.

Pure, and in two steps. `read` judges each record and decodes the next ones; what is not an event
of ours, or shows that the log is damaged, comes out as a value. `Folder` then folds the events
into the rows that they touch. Whoever drives them loads the rows, and writes the result and the
progress in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from tidelog.engine.judge import Progress, Verdict, judge
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.errors import CodecError
from tidelog.message import Context, Message, Row
from tidelog.position import Position
from tidelog.projection import Projection
from tidelog.wire import read_event_headers

R = TypeVar("R", bound=Row)


class Partition(NamedTuple):
    """One partition of a context's log."""

    context: str
    number: int

    def __str__(self) -> str:
        return f"{self.context}:{self.number}"


class Fact(NamedTuple):
    """An event with what the engine keeps beside it."""

    event: Message
    partition: Partition
    offset: int
    sequence: int
    version: int
    recorded_at: datetime

    @property
    def position(self) -> str:
        """Where it stands in the log: `orders:3:1042`."""
        return str(Position(*self.partition, self.sequence))


class Parked(NamedTuple):
    """A record that is kept aside with its original bytes: it is not an event of ours.

    `after` is the sequence of the last event before it.
    """

    partition: Partition
    record: StoredRecord
    after: int
    fork: bool
    reason: str


class Hole(NamedTuple):
    """Events are missing: after `progress` came an event whose sequence is further on."""

    partition: Partition
    progress: Progress
    found: int


class Reading(NamedTuple):
    """What judging a batch gave. `progress` names the partitions that moved, and no other."""

    facts: list[Fact]
    progress: dict[Partition, Progress]
    parked: list[Parked]
    holes: list[Hole]
    redelivered: int


Batch = Mapping[Partition, Sequence[StoredRecord]]


class _Form(NamedTuple):
    """What a context's events look like: the name of their key, and the name of each type."""

    key: str
    names: dict[type[Message], str]


class EventReader:
    """Reads records as events of the given contexts, by one rule for what is ours.

    Ours is a record whose headers are whole, whose bytes decode to an event of its context, and
    whose key, header and key field name one aggregate. The owner of the partition gives sequences
    to no other record, so no other record takes one here.
    """

    def __init__(self, contexts: Iterable[Context], codec: MessageCodec) -> None:
        self._decode = codec.decode
        self._forms = {
            context.name: _Form(
                context.key,
                {kind: context.full_name(kind) for kind in context.event_types},
            )
            for context in contexts
        }

    def read(self, batch: Batch, progress: Mapping[Partition, Progress]) -> Reading:
        """Judge the batch against how far each partition was read before."""
        reading = Reading([], {}, [], [], 0)
        redelivered = 0
        for partition, records in batch.items():
            redelivered += self._read_partition(partition, records, progress[partition], reading)
        return reading._replace(redelivered=redelivered)

    def _read_partition(
        self,
        partition: Partition,
        records: Sequence[StoredRecord],
        start: Progress,
        reading: Reading,
    ) -> int:
        """Judge the records of one partition into `reading`; how many came again.

        Only an event moves the progress. A record that is not ours is judged again after a
        restart that found no event behind it, and parking it twice changes nothing; so an event
        that an outdated reader could not decode is never passed over for good.
        """
        progress, redelivered = start, 0
        form = self._forms[partition.context]
        for record in records:
            fact = self._event(partition, form, record)
            sequence = fact.sequence if isinstance(fact, Fact) else None
            verdict = judge(progress, record.offset, sequence)
            if verdict is Verdict.NEXT and isinstance(fact, Fact):
                reading.facts.append(fact)
                progress = Progress(fact.sequence, record.offset)
            elif verdict is Verdict.REDELIVERY:
                redelivered += 1
            elif verdict is Verdict.HOLE and sequence is not None:
                reading.holes.append(Hole(partition, progress, sequence))
                break
            else:
                reading.parked.append(_parked(partition, record, progress, fact))
        if progress != start:
            reading.progress[partition] = progress
        return redelivered

    def _event(self, partition: Partition, form: _Form, record: StoredRecord) -> Fact | str:
        """The event in the record, or why it is not one of ours."""
        try:
            metadata = read_event_headers(record.headers)
            event = self._decode(record.value or b"")
        except CodecError as error:
            return str(error)
        if form.names.get(type(event)) != metadata.type:
            return f"it is not an event of {partition.context}, or ce_type names another"
        key = getattr(event, form.key)
        if key != metadata.subject or record.key != key.encode():
            return "its key, its ce_subject and its key field are not the same"
        try:
            recorded_at = datetime.fromisoformat(metadata.recorded_at)
        except ValueError:
            return "its ce_time is not a time of the calendar"
        sequence, version = metadata.sequence, metadata.version
        return Fact(event, partition, record.offset, sequence, version, recorded_at)


class StoredRow(NamedTuple):
    """A row with what the engine keeps about it.

    Where the row's key is the key of an aggregate, `version` and `position` are those of the
    aggregate's last event. A row that several aggregates feed counts the events that it took in,
    which comes out the same in any order, and has no position.
    """

    row: Any
    version: int
    position: str
    created_at: datetime
    updated_at: datetime


class FoldFailure(NamedTuple):
    """`evolve` or `keys` failed on an event: a bug, or an event that its state does not allow."""

    key: str
    fact: Fact
    error: Exception


class Changes(NamedTuple):
    """The rows to write and to delete, and the keys whose fold failed; those are in neither."""

    upserts: dict[str, StoredRow]
    deletes: list[str]
    failures: list[FoldFailure]


class Touch(NamedTuple):
    """An event, a row that it touches, and whether `evolve` takes it."""

    key: str
    fact: Fact
    folded: bool


class Folder(Generic[R]):
    """Folds events into the rows of one projection."""

    def __init__(self, projection: Projection[R, Any]) -> None:
        self._projection = projection
        self._event_types = frozenset(projection.event_types)
        self._owner = row_owner(projection)

    @property
    def shared(self) -> bool:
        """Whether several aggregates, and so several partitions, may feed one row."""
        return self._owner is None

    def touches(self, facts: Iterable[Fact]) -> tuple[list[Touch], list[FoldFailure]]:
        """Which rows the events touch, in the order of the events."""
        touches: list[Touch] = []
        failures: list[FoldFailure] = []
        for fact in facts:
            if type(fact.event) in self._event_types:
                try:
                    keys = self._projection.keys_of(fact.event)
                except Exception as error:
                    failures.append(FoldFailure("", fact, error))
                else:
                    touches.extend(Touch(key, fact, True) for key in keys)
            elif fact.partition.context == self._owner:
                # Not folded, but the row's aggregate has moved on: so has the row's version.
                key = getattr(fact.event, self._projection.key)
                touches.append(Touch(key, fact, False))
        return touches, failures

    def fold(self, touches: Iterable[Touch], rows: Mapping[str, StoredRow]) -> Changes:
        """Fold the events into the rows, which are those in the table for the touched keys."""
        by_key: dict[str, list[Touch]] = {}
        for touch in touches:
            by_key.setdefault(touch.key, []).append(touch)
        changes = Changes({}, [], [])
        for key, its_touches in by_key.items():
            stored = rows.get(key)
            after = self._fold_row(stored, its_touches)
            if isinstance(after, FoldFailure):
                changes.failures.append(after)
            elif after is not None:
                changes.upserts[key] = after
            elif stored is not None:
                changes.deletes.append(key)
        return changes

    def _fold_row(
        self, stored: StoredRow | None, touches: Sequence[Touch]
    ) -> StoredRow | FoldFailure | None:
        """One row after its events, with what the engine keeps about it."""
        owned = self._owner is not None
        row = None
        if stored is not None:
            row, version, _, created_at, updated_at = stored
        for touch in touches:
            fact = touch.fact
            time = fact.recorded_at
            if row is None:
                version, created_at, updated_at = 0, time, time
            if touch.folded:
                try:
                    row = self._evolve(touch.key, row, fact.event)
                except Exception as error:
                    return FoldFailure(touch.key, fact, error)
            if owned:
                version, updated_at = fact.version, time
            else:
                version += 1
                created_at, updated_at = min(created_at, time), max(updated_at, time)
        if row is None:
            return None
        position = fact.position if owned else ""
        return StoredRow(row, version, position, created_at, updated_at)

    def _evolve(self, key: str, row: R | None, event: Message) -> R | None:
        projection = self._projection
        after = projection.evolve(row, event)
        assert after is None or getattr(after, projection.key) == key, (
            f"{projection.name}: evolve gave a row of another {projection.key}"
        )
        return after


def row_owner(projection: Projection[Any, Any]) -> str | None:
    """The context whose aggregates are the rows; None where a row belongs to no one aggregate."""
    if projection.keys is not None or len(projection.contexts) != 1:
        return None
    (context,) = projection.contexts
    return context.name if context.key == projection.key else None


def _parked(
    partition: Partition, record: StoredRecord, progress: Progress, fact: Fact | str
) -> Parked:
    if isinstance(fact, str):
        return Parked(partition, record, progress.sequence, False, fact)
    reason = f"it has sequence {fact.sequence}, which an earlier record had: two writers wrote"
    return Parked(partition, record, progress.sequence, True, reason)
