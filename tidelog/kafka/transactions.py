"""The two transactional producers of a partition, as blocking calls.

librdkafka waits 20 ms when a transaction begins before the markers of the one before are written;
two transactional ids in turn never meet that wait. Who may use which, and when, is the engine's
business (tidelog/engine/writer.py); here a call either succeeds cleanly or raises Uncertain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from tidelog.engine.actions import (
    Slot,
)
from tidelog.engine.ports import OutgoingRecord
from tidelog.errors import TidelogError
from tidelog.kafka.security import connection


class Uncertain(TidelogError):
    """A call on a transactional producer that did not succeed cleanly."""


class TransactionalPair:
    """The handles of one partition. `append` may be called while the other slot commits."""

    def __init__(
        self, *, bootstrap_servers: str, topic: str, partition: int, timeout_ms: int
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._partition = partition
        self._timeout_ms = timeout_ms
        self._handles: dict[Slot, _Handle] = {}

    def transactional_id(self, slot: Slot) -> str:
        """The transactional id of a slot."""
        return f"{self._topic}-{self._partition}-{slot.value}"

    def fence(self, slot: Slot) -> None:
        """Open the slot's handle; whoever used its transactional id before can write no more."""
        handle = _Handle(self._config(slot), self._topic, self._partition)
        self._handles[slot] = handle
        handle.init(self._timeout_ms / 1000)

    def append(self, slot: Slot, begin: bool, records: Sequence[OutgoingRecord]) -> None:
        """Hand records to the slot's transaction; returns at once."""
        self._handles[slot].append(begin, records)

    def commit(self, slot: Slot, delivered: Callable[[], None]) -> tuple[int, int]:
        """Commit the slot's transaction: the offsets of its first and its last record.

        `delivered` is called in between, when the broker has acknowledged all of its records.
        """
        handle = self._handles[slot]
        handle.flush(self._timeout_ms / 1000)
        delivered()
        return handle.commit(self._timeout_ms / 1000)

    def prepare(self, slot: Slot) -> None:
        """Begin the slot's next transaction ahead of its use; nothing reaches the broker yet.

        May be called from any thread, also when the slot's handle is gone.
        """
        handle = self._handles.get(slot)
        if handle is not None:
            handle.begin()

    def reset(self) -> None:
        """Destroy both handles. What they had not committed is aborted by the next fence."""
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            handle.destroy()

    def _config(self, slot: Slot) -> dict[str, Any]:
        return {
            **connection(self._bootstrap_servers),
            "client.id": f"tidelog-writer-{self._topic}-{self._partition}",
            "transactional.id": self.transactional_id(slot),
            "transaction.timeout.ms": self._timeout_ms,
            # A record that is not delivered within the transaction's life is of no use.
            "message.timeout.ms": self._timeout_ms,
            "enable.idempotence": True,
            "acks": "all",
            # The commit flushes; until then records gather, so that a transaction is one request.
            "linger.ms": 100,
            "batch.num.messages": 100_000,
            # What the broker takes in one record batch; more is split into several.
            "batch.size": 1_000_000,
            "message.max.bytes": 1_048_588,
            "queue.buffering.max.messages": 100_000,
            "retry.backoff.ms": 5,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "socket.nagle.disable": True,
            "log.connection.close": False,
        }


class _Handle:
    """One transactional producer and what it has reported about its current transaction."""

    def __init__(self, config: dict[str, Any], topic: str, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._first = self._last = -1
        self._trouble: str | None = None
        self._begun = False
        self._lock = threading.Lock()
        self._producer: Producer | None = Producer({**config, "error_cb": self._on_error})

    def init(self, timeout_s: float) -> None:
        try:
            self._alive().init_transactions(timeout_s)
        except KafkaException as error:
            raise Uncertain(f"init_transactions: {error.args[0].str()}") from error

    def begin(self) -> None:
        """Begin a transaction unless one has begun. It waits for librdkafka's main thread."""
        with self._lock:
            if self._begun or self._producer is None:
                return
            self._first = self._last = -1
            self._trouble = None
            try:
                self._producer.begin_transaction()
            except KafkaException as error:
                raise Uncertain(f"begin_transaction: {error.args[0].str()}") from error
            self._begun = True

    def append(self, begin: bool, records: Sequence[OutgoingRecord]) -> None:
        produce: Any = self._alive().produce  # its stub refuses headers of bytes alone
        topic, partition = self._topic, self._partition
        self.begin()
        try:
            last = len(records) - 1
            for number, (key, value, headers) in enumerate(records):
                if number == last or (begin and number == 0):
                    produce(
                        topic,
                        value,
                        key,
                        partition,
                        on_delivery=self._on_delivery,
                        headers=headers,
                    )
                else:
                    produce(topic, value, key, partition, headers=headers)
        except (KafkaException, BufferError) as error:
            raise Uncertain(f"produce: {error}") from error

    def flush(self, timeout_s: float) -> None:
        left = self._alive().flush(timeout_s)
        if left or self._first < 0 or self._last < 0:
            raise Uncertain(f"flush: {self._trouble or 'no delivery reports in time'}")

    def commit(self, timeout_s: float) -> tuple[int, int]:
        try:
            producer = self._alive()
            producer.commit_transaction(timeout_s)
            producer.poll(0)
        except KafkaException as error:
            raise Uncertain(f"commit_transaction: {error.args[0].str()}") from error
        if self._trouble is not None:
            raise Uncertain(f"while the transaction was open: {self._trouble}")
        with self._lock:  # whoever begins the next transaction forgets the offsets of this one
            landed = self._first, self._last
            self._begun = False
        return landed

    def destroy(self) -> None:
        """Drop what is queued; nothing is aborted here: the next owner's fence does that."""
        with self._lock:
            producer, self._producer = self._alive(), None
        producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _alive(self) -> Producer:
        if self._producer is None:
            raise Uncertain("the handle was destroyed")
        return self._producer

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._trouble = str(error)
            return
        offset = message.offset()
        self._first = offset if self._first < 0 else min(self._first, offset)
        self._last = max(self._last, offset)

    def _on_error(self, error: Any) -> None:
        self._trouble = str(error)
