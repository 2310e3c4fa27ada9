"""How far the log goes: the sequence of each partition's last event, read from the log itself.

Offsets cannot tell, because transaction markers and aborted records take offsets too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.errors import CodecError, Unavailable
from tidelog.kafka.headers import headers_of
from tidelog.kafka.reader import TOPIC_MISSING
from tidelog.kafka.records import come
from tidelog.kafka.security import connection
from tidelog.wire import EventMetadata, events_topic, read_event_headers

WAIT_S = 5.0
POLL_S = 0.1
POLL_RECORDS_MAX = 501
# How many offsets before the end the first look begins; each further look doubles it.
TAIL_OFFSETS = 8
# How much is fetched of a partition at once: a record or two are enough.
FETCH_BYTES = 64 * 1024

EARLIEST: Any = OffsetSpec._earliest
LATEST: Any = OffsetSpec._latest


class Bounds(NamedTuple):
    """Where a partition begins, up to where readers of committed records see it, and its end."""

    low: int
    stable: int
    high: int


class LogEnds:
    """Looks up the ends of partitions. One thread uses it."""

    def __init__(self, *, bootstrap_servers: str, topic_prefix: str) -> None:
        self._prefix = topic_prefix
        self._known: dict[Partition, tuple[Bounds, int]] = {}
        self._times: dict[tuple[Partition, Progress], datetime] = {}
        self._held: dict[Partition, tuple[int, float]] = {}
        self._common: dict[str, Any] = {
            **connection(bootstrap_servers),
            "client.id": "tidelog-log-ends",
        }
        # Made when they are needed, not before. A handle's very first request is sent as soon as it
        # is connected; one that comes a moment later, while the library changes over from the
        # bootstrap address to the broker's own, waits for its next turn: one to three seconds.
        self._admin: AdminClient | None = None
        self._consumer: Consumer | None = None

    def partitions(self, contexts: Iterable[str]) -> list[Partition]:
        """Every partition of the contexts' events; none of a topic that is not there."""
        found = []
        try:
            for context in contexts:
                topic = events_topic(context, self._prefix)
                described = self._asks().list_topics(topic, timeout=WAIT_S).topics[topic]
                found += [Partition(context, number) for number in sorted(described.partitions)]
        except KafkaException as error:
            raise _unavailable(error) from error
        return found

    def sequences(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The last sequence of each partition; 0 where it has no event. Unavailable on a fault."""
        try:
            bounds = self._bounds(partitions)
            changed = {
                at: each
                for at, each in bounds.items()
                if at not in self._known or self._known[at][0] != each
            }
            last = self._last(changed)
        except KafkaException as error:
            # After a restart of the broker the client goes on asking with the former leader's
            # epoch, and is refused, until its metadata are minutes old. A new one asks anew.
            self._admin = None
            raise _unavailable(error) from error
        self._known |= {at: (changed[at], last[at]) for at in changed}
        self._note_held(bounds)
        return {at: self._known[at][1] for at in bounds}

    def held_s(self) -> dict[Partition, float]:
        """At the last look: for how long readers have stood before the same open transaction."""
        now = time.monotonic()
        return {at: now - since for at, (_, since) in self._held.items()}

    def times_after(
        self, places: Iterable[tuple[Partition, Progress]]
    ) -> dict[tuple[Partition, Progress], datetime]:
        """When the first event after each of these places was written, where there is one."""
        wanted = set(places)
        self._times = {place: self._times[place] for place in wanted & self._times.keys()}
        missing = wanted - self._times.keys()
        while missing:
            # A partition is read at one place at a time.
            now = dict(sorted(missing))
            missing -= set(now.items())
            try:
                self._find_times(now)
            except KafkaException as error:
                raise _unavailable(error) from error
        return dict(self._times)

    def close(self) -> None:
        """Release the handles."""
        if self._consumer is not None:
            self._consumer.close()

    # --- handles ----------------------------------------------------------------------------

    def _asks(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._common)
        return self._admin

    def _reads(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self._common,
                    # Needed by the library; no group is joined and nothing is committed.
                    "group.id": f"{self._prefix}tidelog-log-ends",
                    "enable.auto.commit": False,
                    # Only what was committed is an event.
                    "isolation.level": "read_committed",
                    # Where the log was cut off meanwhile, the next look finds a new beginning.
                    "auto.offset.reset": "error",
                    # Says that nothing but markers is left.
                    "enable.partition.eof": True,
                    # It reads for moments only: an answer at once is worth an empty fetch.
                    "fetch.wait.max.ms": 5,
                    "fetch.message.max.bytes": FETCH_BYTES,
                    "queued.max.messages.kbytes": 4 * 1024,
                }
            )
        return self._consumer

    # --- where partitions begin and end -----------------------------------------------------

    def _note_held(self, bounds: Mapping[Partition, Bounds]) -> None:
        """Remember since when each partition's readers stand where they do, if more is there."""
        now = time.monotonic()
        for at, each in bounds.items():
            if each.stable == each.high:
                self._held.pop(at, None)
            elif self._held.get(at, (-1, now))[0] != each.stable:
                self._held[at] = (each.stable, now)

    def _bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Bounds]:
        """The bounds of each partition; empty where its topic is gone."""
        places = {at: self._place(at) for at in partitions}
        if not places:
            return {}
        low = self._ask(places, EARLIEST, IsolationLevel.READ_UNCOMMITTED)
        stable = self._ask(places, LATEST, IsolationLevel.READ_COMMITTED)
        high = self._ask(places, LATEST, IsolationLevel.READ_UNCOMMITTED)
        return {at: Bounds(low(at), stable(at), high(at)) for at in places}

    def _ask(
        self, places: Mapping[Partition, TopicPartition], what: Any, isolation: IsolationLevel
    ) -> Callable[[Partition], int]:
        """Ask about all partitions at once; what comes back looks up the answer for one."""
        futures = self._asks().list_offsets(
            dict.fromkeys(places.values(), what),
            isolation_level=isolation,
            request_timeout=WAIT_S,
        )

        def answer(at: Partition) -> int:
            try:
                offset = int(futures[places[at]].result().offset)
            except KafkaException as error:
                if error.args[0].code() in TOPIC_MISSING:
                    return 0
                raise
            if offset < 0:  # what the client says, without an error, when no broker answers
                raise Unavailable(f"Kafka does not tell where {at} ends")
            return offset

        return answer

    def _last(self, bounds: Mapping[Partition, Bounds]) -> dict[Partition, int]:
        """The last sequence of each partition, found from its end backwards."""
        last = {at: 0 for at, each in bounds.items() if each.low >= each.stable}
        back = TAIL_OFFSETS
        while len(last) < len(bounds):
            starts = {
                at: max(each.stable - back, each.low)
                for at, each in bounds.items()
                if at not in last
            }
            found = self._last_from(starts, bounds)
            last |= {at: found[at] for at in starts if found[at] or starts[at] <= bounds[at].low}
            back *= 2
        return last

    # --- reading ----------------------------------------------------------------------------

    def _last_from(
        self, starts: Mapping[Partition, int], bounds: Mapping[Partition, Bounds]
    ) -> dict[Partition, int]:
        """The last sequence among the events from these offsets on; 0 where there is none."""
        found = dict.fromkeys(starts, 0)

        def take(at: Partition, offset: int, metadata: EventMetadata | None) -> bool:
            if metadata is not None:
                found[at] = max(found[at], metadata.sequence)
            return offset + 1 >= bounds[at].stable

        self._scan(starts, take)
        return found

    def _find_times(self, places: Mapping[Partition, Progress]) -> None:
        def take(at: Partition, _: int, metadata: EventMetadata | None) -> bool:
            if metadata is None or metadata.sequence <= places[at].sequence:
                return False
            self._times[at, places[at]] = datetime.fromisoformat(metadata.recorded_at)
            return True

        self._scan({at: progress.offset + 1 for at, progress in places.items()}, take)

    def _scan(
        self,
        starts: Mapping[Partition, int],
        take: Callable[[Partition, int, EventMetadata | None], bool],
    ) -> None:
        """Read each partition from its offset to its end, or until `take` has seen enough.

        `take` is told the offset, and the metadata where the record is an event of ours.
        """
        still = set(starts)
        contexts = {events_topic(at.context, self._prefix): at.context for at in starts}
        consumer = self._reads()
        consumer.assign([self._place(at, offset) for at, offset in starts.items()])
        deadline = time.monotonic() + WAIT_S
        try:
            while still:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{min(still)} was not read to its end in {WAIT_S} s")
                for message in come(consumer, POLL_RECORDS_MAX, POLL_S):
                    at = Partition(contexts[message.topic()], message.partition())
                    if at in still and _taken(message, at, take):
                        still.discard(at)
        finally:
            consumer.unassign()

    def _place(self, at: Partition, offset: int = OFFSET_INVALID) -> TopicPartition:
        return TopicPartition(events_topic(at.context, self._prefix), at.number, offset)


def _taken(
    message: Any,
    at: Partition,
    take: Callable[[Partition, int, EventMetadata | None], bool],
) -> bool:
    """Hand a message over; whether no more is wanted of its partition."""
    error = message.error()
    if error is None:
        return take(at, message.offset(), _metadata_of(message))
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    raise KafkaException(error)


def _metadata_of(message: Any) -> EventMetadata | None:
    try:
        return read_event_headers(headers_of(message))
    except CodecError:
        return None


def _unavailable(error: KafkaException) -> Unavailable:
    return Unavailable(f"the end of the log cannot be read: {error.args[0].str()}")
