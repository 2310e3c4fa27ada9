"""Reading: records of the log become events, judged one by one.

Pure. What is not an event of ours, or shows that the log is damaged, comes out as a value. Most
records have exactly the headers that we write, and the next sequence: they are taken apart in
place. Whatever looks otherwise is read by `EventForm`, whose word is final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from tidelog.engine.judge import Progress, Verdict, judge
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.errors import CodecError
from tidelog.message import Context, Message
from tidelog.position import Position
from tidelog.wire import EventMetadata, quick_headers, read_event_headers


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
    record: StoredRecord

    @property
    def metadata(self) -> EventMetadata:
        """What else the headers say: read at each call, because few who fold events ask."""
        return read_event_headers(self.record.headers)

    @property
    def position(self) -> str:
        """Where it stands in the log: `orders:3:1042`."""
        return str(Position(*self.partition, self.sequence))


class ParkedRecord(NamedTuple):
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
    parked: list[ParkedRecord]
    holes: list[Hole]
    redelivered: int


Batch = Mapping[Partition, Sequence[StoredRecord]]

_NEXT = Verdict.NEXT
_time_of = datetime.fromisoformat
_new: Callable[[type[Fact], tuple[Any, ...]], Fact] = tuple.__new__


class EventForm:
    """What an event of a context looks like: the one rule for what is ours.

    Ours is a record whose headers are whole, whose bytes decode to an event of its context, and
    whose key, header and key field name one aggregate. The owner of the partition gives sequences
    to no other record, so no other record takes one here.
    """

    def __init__(self, context: Context) -> None:
        self._context = context.name
        self._kinds: dict[bytes, type[Message]] = {
            context.full_name(kind).encode(): kind for kind in context.event_types
        }
        self._key_of: Callable[[Message], str] = attrgetter(context.key)

    def read(
        self, record: StoredRecord, codec: MessageCodec
    ) -> tuple[EventMetadata, Message] | str:
        """The event in the record with its metadata, or why it is not one of ours."""
        try:
            metadata = read_event_headers(record.headers)
            event = codec.decode(record.value or b"")
        except CodecError as error:
            return str(error)
        if type(event) is not self._kinds.get(metadata.type.encode()):
            return f"it is not an event of {self._context}, or ce_type names another"
        key = self._key_of(event)
        if key != metadata.subject or record.key != key.encode():
            return "its key, its ce_subject and its key field are not the same"
        return metadata, event

    def read_next(
        self, partition: Partition, record: StoredRecord, codec: MessageCodec, sequence: int
    ) -> Fact | None:
        """The event in the record, if this is its sequence and all is as we write it.

        None where any look is due; never more lenient than `read`.
        """
        at, key, value, headers = record
        found = quick_headers(headers)
        if found is None:
            return None
        kind, subject, stands, version, time = found
        if stands != b"%d" % sequence or key != subject or not value:
            return None
        try:
            event = codec.decode(value)
        except CodecError:
            return None
        if type(event) is not self._kinds.get(kind) or self._key_of(event).encode() != subject:
            return None
        # As Fact(…), which would go through a function of its own.
        return _new(Fact, (event, partition, at, sequence, int(version), time, record))


class EventReader:
    """Reads records as events of the given contexts, and judges each against the ones before."""

    def __init__(self, contexts: Iterable[Context], codec: MessageCodec) -> None:
        self._codec = codec
        self._forms = {context.name: EventForm(context) for context in contexts}

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
        (last, at), redelivered = start, 0
        take, codec = reading.facts.append, self._codec
        read_next = self._forms[partition.context].read_next
        for record in records:
            offset = record.offset
            if offset <= at:
                redelivered += 1
                continue
            following = read_next(partition, record, codec, last + 1)
            if following is not None:
                take(following)
                last, at = last + 1, offset
                continue
            fact = self.event(partition, record)
            if isinstance(fact, str):
                reading.parked.append(_parked(partition, record, last, fact))
                continue
            verdict = judge((last, at), offset, fact.sequence)
            if verdict is _NEXT:
                take(fact)
                last, at = fact.sequence, offset
            elif verdict is Verdict.HOLE:
                reading.holes.append(Hole(partition, Progress(last, at), fact.sequence))
                break
            else:
                reading.parked.append(_parked(partition, record, last, fact))
        if at != start.offset:
            reading.progress[partition] = Progress(last, at)
        return redelivered

    def event(self, partition: Partition, record: StoredRecord) -> Fact | str:
        """The event in the record, or why it is not one of ours."""
        found = self._forms[partition.context].read(record, self._codec)
        if isinstance(found, str):
            return found
        metadata, event = found
        time = _time_of(metadata.recorded_at)
        return Fact(
            event, partition, record.offset, metadata.sequence, metadata.version, time, record
        )


def _parked(
    partition: Partition, record: StoredRecord, after: int, fact: Fact | str
) -> ParkedRecord:
    if isinstance(fact, str):
        return ParkedRecord(partition, record, after, False, fact)
    reason = f"it has sequence {fact.sequence}, which an earlier record had: two writers wrote"
    return ParkedRecord(partition, record, after, True, reason)
