"""The bulk fold: a shard of a read model is folded in memory and written as whole rows.

Pure. It comes to the rows, the parked keys and the versions that the live fold comes to; a rebuild
writes them, `verify` compares them, `replay` looks at them. Whoever drives it bounds the memory: it
drains what has been folded so far, and hands in a way to load the rows that are needed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

from tidelog.engine.bulk_reading import BulkReader, Item, Shard
from tidelog.engine.folding import Decisions, StoredRow, row_owner
from tidelog.engine.judge import Progress
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.engine.reading import Partition
from tidelog.position import parse_position
from tidelog.projection import Projection

Load = Callable[[Sequence[str]], Mapping[str, StoredRow]]
"""The rows of these keys that the table holds already."""

Waiting = Mapping[str, Mapping[Partition, int]]
"""For each parked key, up to which sequence of each partition its row holds its events."""

_NO_TIME = datetime.min.replace(tzinfo=UTC)


class KeyFailure(NamedTuple):
    """A key that was parked: the event at which the fold failed, and what its row holds."""

    key: str
    kind: str
    aggregate_id: str
    partition: Partition
    sequence: int
    offset: int
    error: Exception
    after: Mapping[Partition, Progress]


class First(NamedTuple):
    """The first event that a segment folded into a row, and where the row stood before it.

    `events` is what the row's version, or its count of events, was behind it.
    """

    kind: str
    aggregate_id: str
    partition: Partition
    sequence: int
    offset: int
    events: int
    progress: Mapping[Partition, Progress]


class Segment(NamedTuple):
    """What was folded since the last drain: whole rows, and how far the shard is with them.

    `added` are rows that the table does not hold yet. `passed` counts, by parked key, the events
    that wait. `firsts` tells of each row where it would be parked if the table refused it.
    """

    before: Mapping[Partition, Progress]
    after: Mapping[Partition, Progress]
    added: Sequence[StoredRow]
    changed: Sequence[StoredRow]
    deleted: Sequence[str]
    parked: Sequence[KeyFailure]
    passed: Mapping[str, int]
    firsts: Mapping[str, First]


class _Entry:
    """A row in the making. Without a row it stands for a key that has none (any more)."""

    __slots__ = (
        "created_at",
        "first",
        "partition",
        "row",
        "sequence",
        "stored",
        "updated_at",
        "version",
    )

    def __init__(self) -> None:
        self.row: Any = None
        self.first: First | None = None
        self.version = 0
        self.partition: Partition | None = None
        self.sequence = 0
        self.created_at = _NO_TIME
        self.updated_at = _NO_TIME
        self.stored = False

    def as_stored(self) -> StoredRow:
        position = f"{self.partition}:{self.sequence}" if self.partition is not None else ""
        return StoredRow(self.row, self.version, position, self.created_at, self.updated_at)


class BulkFold:
    """Folds one shard of a projection, from where `progress` stands.

    `waiting` are the keys that are parked already: what lies beyond is counted and passed over.
    `load` gives the rows that were written before; None where nothing was.
    """

    def __init__(
        self,
        projection: Projection[Any, Any],
        shard: Shard,
        codec: MessageCodec,
        *,
        progress: Mapping[Partition, Progress],
        decisions: Decisions | None = None,
        waiting: Waiting | None = None,
        load: Load | None = None,
    ) -> None:
        self.shard = shard
        self.progress: Mapping[Partition, Progress] = dict(progress)
        self.load = load
        self.events = 0
        self._projection = projection
        self._owned = row_owner(projection) is not None
        self._reader = BulkReader(projection, shard, codec, decisions)
        self._waiting: dict[str, Mapping[Partition, int]] = dict(waiting or {})
        self._entries: dict[str, _Entry] = {}
        self._parked: list[KeyFailure] = []
        self._passed: dict[str, int] = {}
        self._drained: Mapping[Partition, Progress] = self.progress
        self._other_key = f"{projection.name}: evolve gave a row of another {projection.key}"

    def __len__(self) -> int:
        """How many rows are held in memory."""
        return len(self._entries)

    def take(self, partition: Partition, records: Sequence[StoredRecord], target: int) -> int:
        """Fold the records of a partition up to sequence `target`; how many events that were.

        Raises LogHole where events are missing, and CodecError where an event's rows cannot be
        told. Then nothing of these records was folded.
        """
        start = self.progress[partition]
        items, end = self._reader.read(partition, records, start, target)
        if self.load is not None:
            self._load_missing(items, self.load)
        self.fold(partition, items)
        self.progress = {**self.progress, partition: end}
        self.events += end.sequence - start.sequence
        return end.sequence - start.sequence

    def not_ours(self, partition: Partition) -> str | None:
        """The last record of the partition that was none of ours, and why."""
        return self._reader.not_ours.get(partition)

    def rows(self) -> dict[str, StoredRow]:
        """Every row that is held, by key."""
        entries = self._entries.items()
        return {key: entry.as_stored() for key, entry in entries if entry.row is not None}

    def failures(self) -> Sequence[KeyFailure]:
        """The keys that were parked since the last drain."""
        return self._parked

    def drain(self) -> Segment:
        """What was folded since the last drain; nothing of it is held any longer."""
        added: list[StoredRow] = []
        changed: list[StoredRow] = []
        deleted: list[str] = []
        for key, entry in self._entries.items():
            if entry.row is not None:
                (changed if entry.stored else added).append(entry.as_stored())
            elif entry.stored:
                deleted.append(key)
        firsts = {key: each.first for key, each in self._entries.items() if each.first is not None}
        segment = Segment(
            self._drained,
            self.progress,
            added,
            changed,
            deleted,
            self._parked,
            self._passed,
            firsts,
        )
        self._entries, self._parked, self._passed = {}, [], {}
        self._drained = self.progress
        return segment

    def refused(self, segment: Segment, errors: Mapping[str, Exception]) -> Segment:
        """The segment where the table refuses the rows of these keys.

        They are parked before the first event that the segment folded into them; the retries find
        the one that is at fault, and fold what lies before it.
        """
        failed_before = [each.key for each in segment.parked if each.key in errors]
        parked = [each for each in segment.parked if each.key not in errors]
        passed = dict(segment.passed)
        for stored in (*segment.added, *segment.changed):
            key = getattr(stored.row, self._projection.key)
            if key not in errors:
                continue
            first = segment.firsts[key]
            waiting = stored.version - first.events + failed_before.count(key)
            passed[key] = passed.get(key, 0) + waiting
            parked.append(self._failure(key, first, errors[key], first.progress))

        def kept(rows: Sequence[StoredRow]) -> list[StoredRow]:
            return [each for each in rows if getattr(each.row, self._projection.key) not in errors]

        return segment._replace(
            added=kept(segment.added), changed=kept(segment.changed), parked=parked, passed=passed
        )

    # --- folding ----------------------------------------------------------------------------

    def _load_missing(self, items: Sequence[Item], load: Load) -> None:
        """Load the rows that were written before. The first event of an aggregate finds none."""
        entries, owned = self._entries, self._owned
        keys = {
            item.key
            for item in items
            if item.key not in entries and not (owned and item.version == 1)
        }
        for key, stored in (load(sorted(keys)) if keys else {}).items():
            entry = entries[key] = _Entry()
            entry.row, entry.version, position, entry.created_at, entry.updated_at = stored
            entry.stored = True
            if position:
                context, number, entry.sequence = parse_position(position)
                entry.partition = Partition(context, number)

    def fold(self, partition: Partition, items: Sequence[Item]) -> None:
        """Fold what was read already. `take` reads, and then does this."""
        entries, waiting, owned = self._entries, self._waiting, self._owned
        evolve, key_of = self._projection.evolve, attrgetter(self._projection.key)
        initial = self._projection.initial
        for item in items:
            key, event, _, _, _, sequence, version, time = item
            if waiting and key in waiting and sequence > waiting[key].get(partition, 0):
                self._passed[key] = self._passed.get(key, 0) + 1
                continue
            entry = entries.get(key)
            if entry is None:
                entry = entries[key] = _Entry()
            row = after = entry.row
            if event is not None:
                try:
                    before = initial(key) if row is None and initial is not None else row
                    after = evolve(before, event)
                    assert after is None or key_of(after) == key, self._other_key
                except Exception as error:
                    self._park(partition, item, error)
                    continue
            if row is None:
                entry.version, entry.created_at, entry.updated_at = 0, time, time
            entry.row = after
            if owned:
                entry.version, entry.sequence = version, sequence
                entry.partition, entry.updated_at = partition, time
            else:
                entry.version += 1
                entry.created_at = min(entry.created_at, time)
                entry.updated_at = max(entry.updated_at, time)
            if entry.first is None:
                entry.first = self._first(partition, item, entry.version)

    def _first(self, partition: Partition, item: Item, events: int) -> First:
        _, _, kind, aggregate_id, offset, sequence, _, _ = item
        return First(kind, aggregate_id, partition, sequence, offset, events, self.progress)

    def _park(self, partition: Partition, item: Item, error: Exception) -> None:
        """Park the key before this event."""
        first = self._first(partition, item, 0)
        self._parked.append(self._failure(item.key, first, error, self.progress))

    def _failure(
        self, key: str, at: First, error: Exception, progress: Mapping[Partition, Progress]
    ) -> KeyFailure:
        """A key that is parked at this event, and up to where its row holds its events."""
        reach = {} if self._owned else dict(progress)
        reach[at.partition] = Progress(at.sequence - 1, at.offset - 1)
        self._waiting[key] = {place: each.sequence for place, each in reach.items()}
        return KeyFailure(
            key, at.kind, at.aggregate_id, at.partition, at.sequence, at.offset, error, reach
        )


def limits(parked: Mapping[str, Mapping[Partition, Progress]]) -> Waiting:
    """Parked keys as a fold takes them, from what is stored of them."""
    return {
        key: {at: progress.sequence for at, progress in after.items()}
        for key, after in parked.items()
    }
