"""Membership of the group of command services: who should own which partition, and their commands.

One thread polls the consumer of `<context>.commands`. Being assigned partition p of that topic
means: own the aggregates of partition p. Safety rests on the fence of the transactional ids alone;
the group only says who should try, and its answers renew the lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tidelog.engine.ports import StoredRecord
from tidelog.kafka.lease import Lease
from tidelog.kafka.records import stored_record
from tidelog.kafka.security import connection

POLL_S = 0.1
POLL_RECORDS_MAX = 500
PROOF_INTERVAL_S = 1.0
PROOF_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0

Place = tuple[str, int]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class MembershipEvents:
    """What the thread tells. `released` blocks until the partitions are let go (bounded)."""

    assigned: Callable[[Sequence[Place]], None]
    released: Callable[[Sequence[Place]], None]
    lost: Callable[[Sequence[Place]], None]
    records: Callable[[Place, Sequence[StoredRecord]], None]


def classic(session_timeout_ms: int) -> dict[str, str | int]:
    """Kafka's classic group protocol.

    Dynamic membership: a second process never evicts a paused one before its lease has run out.
    """
    return {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_timeout_ms,
        "heartbeat.interval.ms": heartbeat_ms(session_timeout_ms),
    }


def heartbeat_ms(session_timeout_ms: int) -> int:
    """How often a member says that it lives, and hears that the group is being balanced."""
    return max(session_timeout_ms // 12, 100)


class GroupMembership:
    """One member of the group, with the thread that polls for it."""

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        group: str,
        client_id: str,
        topics: Sequence[str],
        session_timeout_ms: int,
        lease: Lease,
        events: MembershipEvents,
        protocol: Mapping[str, str | int] | None = None,
    ) -> None:
        """`protocol` is how the group is kept; `classic` where none is given (ADR 24)."""
        self._topics = list(topics)
        self._lease = lease
        self._events = events
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._next_offsets: dict[Place, int] = {}
        self._flow: list[tuple[bool, Place]] = []
        self._proof_sent_at: float | None = None
        self._consumer = Consumer(
            {
                **connection(bootstrap_servers),
                "group.id": group,
                # Other instances find the owner's address here, by describing the group.
                "client.id": client_id,
                **(protocol or classic(session_timeout_ms)),
                "max.poll.interval.ms": max(60_000, session_timeout_ms),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 5,
                "queued.max.messages.kbytes": 16 * 1024,
                "on_commit": self._on_commit,
            }
        )
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Leave the group cleanly; `released` is called for what is still owned."""
        self._stopping.set()
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the polling thread runs."""
        return self._thread.is_alive()

    def processed(self, place: Place, next_offset: int) -> None:
        """Commands below the offset have durable outcomes; the next proof commits it."""
        with self._lock:
            if place in self._next_offsets:
                self._next_offsets[place] = max(self._next_offsets[place], next_offset)

    def flow(self, place: Place, on: bool) -> None:
        """Pause or resume the commands of one partition."""
        with self._lock:
            self._flow.append((on, place))

    def _run(self) -> None:
        self._consumer.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        proof_due = 0.0
        while not self._stopping.is_set():
            try:
                self._hand_over(self._consumer.consume(POLL_RECORDS_MAX, POLL_S))
                self._apply_flow()
                if self._lease.clock() >= proof_due and self._ask_for_proof():
                    proof_due = self._lease.clock() + PROOF_INTERVAL_S
            except Exception as error:  # without this thread the process would own for nothing
                log.warning("membership.trouble", error=repr(error))
                self._stopping.wait(POLL_S)
        self._commit_last()
        self._consumer.close()

    def _hand_over(self, messages: Sequence[Any]) -> None:
        by_place: dict[Place, list[StoredRecord]] = {}
        for message in messages:
            if message.error() is not None:
                log.warning("membership.consume", error=message.error().str())
                continue
            place = (message.topic(), message.partition())
            by_place.setdefault(place, []).append(stored_record(message))
        for place, records in by_place.items():
            self._events.records(place, records)

    def _apply_flow(self) -> None:
        with self._lock:
            changes, self._flow = self._flow, []
            changes = [(on, place) for on, place in changes if place in self._next_offsets]
        for on, place in changes:
            (self._consumer.resume if on else self._consumer.pause)([TopicPartition(*place)])

    def _ask_for_proof(self) -> bool:
        """Commit the offsets: a group answer proves membership, and keeps the offsets as well."""
        now = self._lease.clock()
        if self._proof_sent_at is not None and now - self._proof_sent_at < PROOF_TIMEOUT_S:
            return False
        offsets = self._offsets(repr(now))
        if not offsets:
            return False
        self._consumer.commit(offsets=offsets, asynchronous=True)
        self._proof_sent_at = now
        return True

    def _on_commit(self, error: Any, partitions: Sequence[TopicPartition]) -> None:
        """An answer proves membership since its own request: a late one proves nothing newer."""
        sent_at = min(
            (float(found.metadata) for found in partitions if found.metadata), default=None
        )
        if sent_at == self._proof_sent_at:
            self._proof_sent_at = None
        if error is not None:
            log.warning("membership.proof_refused", error=error.str())
        elif sent_at is not None:
            self._lease.prove(sent_at)

    def _commit_last(self) -> None:
        offsets = self._offsets()
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("membership.last_commit", error=str(error))

    def _offsets(self, metadata: str = "") -> list[TopicPartition]:
        with self._lock:
            offsets = list(self._next_offsets.items())
        return [TopicPartition(*place, offset, metadata) for place, offset in offsets]

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        placed = self._with_offsets_at_last(consumer, partitions)
        if not placed:
            return  # stopping
        with self._lock:
            for found in placed:
                self._next_offsets[(found.topic, found.partition)] = found.offset
        consumer.incremental_assign(placed)
        self._tell(self._events.assigned, placed)
        consumer.resume(placed)  # librdkafka remembers a pause of an earlier tenure

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._tell(self._events.released, partitions)
        self._commit_last()
        self._forget(partitions)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._lease.revoke()
        self._tell(self._events.lost, partitions)
        self._forget(partitions)
        consumer.incremental_unassign(partitions)

    def _tell(
        self, told: Callable[[Sequence[Place]], None], partitions: Sequence[TopicPartition]
    ) -> None:
        """Whatever the listener does, the group gets its answer."""
        try:
            told(_places(partitions))
        except Exception as error:
            log.exception("membership.listener", error=repr(error))

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        gone = set(_places(partitions))
        with self._lock:
            for place in gone:
                self._next_offsets.pop(place, None)
            # A pause that was asked for this tenure must not stop the next one.
            self._flow = [(on, place) for on, place in self._flow if place not in gone]

    def _with_offsets_at_last(
        self, consumer: Any, partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        """An assignment without offsets would be lost for good, so ask until Kafka answers."""
        while not self._stopping.is_set():
            try:
                return self._with_offsets(consumer, partitions)
            except KafkaException as error:
                log.warning("membership.offsets", error=str(error))
                self._stopping.wait(POLL_S)
        return []

    def _with_offsets(
        self, consumer: Any, partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        """Where to begin: the committed offset; without one, the oldest command that is kept.

        A committed one that is kept no more is put right by `auto.offset.reset`. Asking for the
        oldest costs a round trip for each partition, while all of them wait for their owner.
        """
        placed = []
        for found in consumer.committed(partitions, timeout=REQUEST_TIMEOUT_S):
            offset = found.offset
            if offset < 0:
                offset, _ = consumer.get_watermark_offsets(
                    found, timeout=REQUEST_TIMEOUT_S, cached=False
                )
            placed.append(TopicPartition(found.topic, found.partition, offset))
        return placed


def _places(partitions: Sequence[TopicPartition]) -> list[Place]:
    return [(found.topic, found.partition) for found in partitions]
