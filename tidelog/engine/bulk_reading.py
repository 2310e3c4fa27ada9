"""Reading a log in bulk: the same judgement as the live reader's, with nothing done twice.

Pure. Most records have exactly the headers that we write, in our order, and the next sequence: they
are taken apart in place. Whatever looks otherwise goes to the EventReader, whose word is final. An
event that the projection does not fold is not decoded: its headers say what a row keeps of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple
from zlib import crc32

from tidelog.engine.folding import Decisions, Folder, row_owner
from tidelog.engine.judge import Progress, Verdict, judge
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.errors import CodecError, LogHole
from tidelog.message import Message
from tidelog.projection import Projection
from tidelog.wire import QuickHeaders, quick_headers


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A share of a projection's rows that is folded on its own.

    It reads these partitions, and of their rows those whose key's checksum falls to its part. With
    `keys` it is about these rows alone.
    """

    number: int
    partitions: tuple[Partition, ...]
    parts: int = 1
    part: int = 0
    keys: frozenset[bytes] | None = None

    @property
    def whole(self) -> bool:
        """Whether every row of its partitions belongs to it."""
        return self.parts == 1 and self.keys is None

    def holds(self, key: bytes) -> bool:
        """Whether the row of this key belongs to the shard."""
        if self.keys is not None and key not in self.keys:
            return False
        return self.parts == 1 or crc32(key) % self.parts == self.part


def shards_of(
    projection: Projection[Any, Any], partitions: Sequence[Partition], at_least: int
) -> list[Shard]:
    """The shards of a projection: at least so many, however few partitions there are.

    A row of one aggregate lies in one partition. A row that several partitions feed is told by
    its key alone, and each shard reads them all.
    """
    if row_owner(projection) is None:
        everywhere = tuple(partitions)
        return [
            Shard(number=part, partitions=everywhere, parts=at_least, part=part)
            for part in range(at_least)
        ]
    parts = max(1, -(-at_least // len(partitions)))
    places = [(at, part) for at in partitions for part in range(parts)]
    return [
        Shard(number=number, partitions=(at,), parts=parts, part=part)
        for number, (at, part) in enumerate(places)
    ]


class Item(NamedTuple):
    """What one event means for one row; `event` is None where `evolve` does not take it."""

    key: str
    event: Message | None
    kind: str
    aggregate_id: str
    offset: int
    sequence: int
    version: int
    time: datetime


class _Kind(NamedTuple):
    """An event type: its name, how its key is read, and whether `evolve` takes it."""

    message: type[Message]
    name: str
    key_of: Callable[[Any], str]
    folded: bool


_new: Callable[[type[Item], tuple[Any, ...]], Item] = tuple.__new__


class BulkReader:
    """Reads the records of a shard as what they mean for its rows."""

    def __init__(
        self,
        projection: Projection[Any, Any],
        shard: Shard,
        codec: MessageCodec,
        decisions: Decisions | None = None,
    ) -> None:
        self._projection = projection
        self._shard = shard
        self._decode = codec.decode
        self._decisions: Decisions = decisions or {}
        self._events = EventReader(projection.contexts, codec)
        self._folder = Folder(projection, decisions)
        self._owned = row_owner(projection) is not None
        folded = set(projection.event_types)
        self._kinds = {
            context.name: {
                context.full_name(kind).encode(): _Kind(
                    kind, kind.__name__, attrgetter(context.key), kind in folded
                )
                for kind in context.event_types
            }
            for context in projection.contexts
        }
        # Where the row's key is the record's, other shards' records are passed over undecoded.
        self._by_record_key = (
            not shard.whole
            and projection.keys is None
            and all(context.key == projection.key for context in projection.contexts)
        )
        self.not_ours: dict[Partition, str] = {}

    def read(
        self,
        partition: Partition,
        records: Sequence[StoredRecord],
        start: Progress,
        target: int,
    ) -> tuple[list[Item], Progress]:
        """What the records mean for the shard's rows, up to sequence `target`, and how far it got.

        Raises LogHole where events are missing, and CodecError where `keys` fails. What is not
        ours, and forks, are passed over: whoever reads live parks them.
        """
        items: list[Item] = []
        sequence, offset = start
        kinds, decisions = self._kinds[partition.context], self._decisions
        for record in records:
            if sequence >= target:
                break
            where = record.offset
            if where <= offset:
                continue
            following = sequence + 1
            found = quick_headers(record.headers)
            if (
                found is None
                or found[2] != b"%d" % following
                or (decisions and (partition, following) in decisions)
            ):
                ours = self._read_slowly(partition, record, Progress(sequence, offset), items)
            else:
                known = kinds.get(found[0])
                ours = self._take(partition, record, known, found, following, items)
            if ours:
                sequence, offset = following, where
        return items, Progress(sequence, offset)

    def _take(
        self,
        partition: Partition,
        record: StoredRecord,
        known: _Kind | None,
        found: QuickHeaders,
        sequence: int,
        items: list[Item],
    ) -> bool:
        """Note what the record means; whether it is an event of ours."""
        offset, key, value, _ = record
        _, subject, _, version, time = found
        if known is None or key != subject:
            return self._refuse(partition, record)
        kind, name, key_of, folded = known
        if self._by_record_key and not self._shard.holds(subject):
            return True
        text, event = subject.decode(), None
        if folded:
            try:
                event = self._decode(value or b"")
            except CodecError:
                return self._refuse(partition, record)
            if type(event) is not kind or key_of(event) != text:
                return self._refuse(partition, record)
        elif not self._owned:
            return True
        # As Item(…), which would go through a function of its own.
        item = _new(Item, (text, event, name, text, offset, sequence, int(version), time))
        if self._owned or event is None:
            items.append(item)
        else:
            self._touch(partition, item, event, items)
        return True

    def _touch(self, partition: Partition, item: Item, event: Message, items: list[Item]) -> None:
        """Note the rows that an event touches, of a projection whose rows are no aggregates."""
        try:
            keys = self._projection.keys_of(event)
        except Exception as error:
            raise _no_keys(self._projection, partition, item.sequence, event, error) from error
        holds = self._shard.holds
        items.extend(item._replace(key=key) for key in keys if holds(key.encode()))

    def _read_slowly(
        self, partition: Partition, record: StoredRecord, progress: Progress, items: list[Item]
    ) -> bool:
        """The EventReader's judgement; whether the record is the next event."""
        fact = self._events.event(partition, record)
        if isinstance(fact, str):
            self.not_ours[partition] = f"offset {record.offset}: {fact}"
            return False
        match judge(progress, record.offset, fact.sequence):
            case Verdict.NEXT:
                self._take_fact(fact, items)
                return True
            case Verdict.HOLE:
                raise self._hole(partition, progress, fact.sequence)
        return False

    def _take_fact(self, fact: Fact, items: list[Item]) -> None:
        touches, failure = self._folder.touches([fact])
        if failure is not None:
            raise _no_keys(
                self._projection, fact.partition, fact.sequence, fact.event, failure.error
            ) from failure.error
        for key, taken, folded in touches:
            if self._shard.holds(key.encode()):
                event = taken.event if folded else None
                kind = type(taken.event).__name__
                items.append(
                    Item(
                        key,
                        event,
                        kind,
                        fact.metadata.subject,
                        fact.offset,
                        fact.sequence,
                        fact.version,
                        fact.recorded_at,
                    )
                )

    def _refuse(self, partition: Partition, record: StoredRecord) -> bool:
        """Not ours after all; why is said by the EventReader, if anybody comes to ask."""
        reason = self._events.event(partition, record)
        assert isinstance(reason, str), f"{partition}, offset {record.offset}: two judgements"
        self.not_ours[partition] = f"offset {record.offset}: {reason}"
        return False

    def _hole(self, partition: Partition, progress: Progress, found: int) -> LogHole:
        seen = self.not_ours.get(partition)
        hint = f" A record before it is none of ours ({seen})." if seen else ""
        return LogHole(
            f"{partition}: sequence {progress.sequence + 1} is missing, the next one is {found}."
            f"{hint} Restore the topic, or run a version that can read it; then go on."
        )


def _no_keys(
    projection: Projection[Any, Any],
    partition: Partition,
    sequence: int,
    event: Message,
    error: Exception,
) -> CodecError:
    return CodecError(
        f"{projection.name}: the rows that {type(event).__name__} at {partition}:{sequence} "
        f"touches cannot be told ({type(error).__name__}: {error}). Mend keys, then start again."
    )
