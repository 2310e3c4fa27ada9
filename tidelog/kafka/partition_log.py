"""One partition of an event topic, as its writer's actions see it. Blocking but for `append`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from confluent_kafka.admin import AdminClient

from tidelog.engine.actions import (
    Action,
    Append,
    Commit,
    Fence,
    FindEnd,
    Read,
    Reset,
    Slot,
)
from tidelog.errors import TopicRecreated, Unavailable
from tidelog.kafka.markers import Fencing
from tidelog.kafka.replay import PartitionReplay
from tidelog.kafka.topics import admin_client, high_watermark, stable_offset, topic_ids
from tidelog.kafka.transactions import TransactionalPair

REQUEST_TIMEOUT_S = 10.0

T = TypeVar("T")


class PartitionLog:
    """Carries out the actions of a PartitionWriter on Kafka."""

    def __init__(
        self,
        *,
        admin: AdminClient,
        bootstrap_servers: str,
        topic: str,
        partition: int,
        topic_id: str,
        transaction_timeout_ms: int,
    ) -> None:
        self._admin = admin
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._partition = partition
        self._topic_id = topic_id
        self._replay: PartitionReplay | None = None
        self._end = 0
        self._fencing = Fencing(
            bootstrap_servers=bootstrap_servers,
            topic=topic,
            partition=partition,
            settled=self.settled,
        )
        self._pair = TransactionalPair(
            bootstrap_servers=bootstrap_servers,
            topic=topic,
            partition=partition,
            timeout_ms=transaction_timeout_ms,
        )

    def append(self, action: Append) -> None:
        """Hand records to the transaction; returns at once."""
        self._pair.append(action.slot, action.begin, action.records)

    def perform(self, action: Action, delivered: Callable[[], None]) -> Any:
        """Carry out an action that takes time; its result, or an exception.

        `delivered` is called in the middle of a commit, once its records have their offsets.
        """
        match action:
            case Fence(slot=slot):
                return self._fence(slot)
            case FindEnd():
                return self._find_end()
            case Read(offset=offset):
                return self._read(offset)
            case Commit(slot=slot):
                return self._pair.commit(slot, delivered)
            case Reset():
                self._close_replay()
                return self._pair.reset()
            case Append():
                raise AssertionError("append does not block")

    def prepare(self, slot: Slot) -> None:
        """Begin the slot's next transaction ahead of its use; any thread may call it."""
        self._pair.prepare(slot)

    def close(self) -> None:
        """Release everything."""
        try:
            self._close_replay()
        finally:
            self._pair.reset()

    def settled(self) -> bool:
        """Whether no transaction is open in the partition; any thread may ask."""
        return self._asked(self._is_settled)

    def _fence(self, slot: Slot) -> None:
        """Initialise the slot's id; what its last transaction came to holds, whatever happened."""
        self._fencing.fence(self._pair.transactional_id(slot), partial(self._pair.fence, slot))

    def _is_settled(self) -> bool:
        place = self._topic, self._partition, REQUEST_TIMEOUT_S
        return stable_offset(self._admin, *place) >= high_watermark(self._admin, *place)

    def _find_end(self) -> int:
        self._end = self._asked(self._find_high_watermark)
        return self._end

    def _find_high_watermark(self) -> int:
        self._check_topic()
        return high_watermark(self._admin, self._topic, self._partition, REQUEST_TIMEOUT_S)

    def _asked(self, question: Callable[[], T]) -> T:
        """The answer of a broker; whatever goes wrong, the next one is asked by a new client."""
        try:
            return question()
        except TopicRecreated:
            raise
        except Exception as error:
            # An admin client that has lost its broker may not look for it again for minutes.
            self._admin = admin_client(self._bootstrap_servers)
            raise Unavailable(f"Kafka does not answer: {error}") from error

    def _check_topic(self) -> None:
        found = topic_ids(self._admin, [self._topic]).get(self._topic)
        if found is not None and found != self._topic_id:
            raise TopicRecreated(
                f"{self._topic} was deleted and made anew while it was served. Restore it, or "
                "restart the service and follow what it says."
            )

    def _read(self, offset: int) -> Any:
        if self._replay is None:
            self._replay = PartitionReplay(
                bootstrap_servers=self._bootstrap_servers,
                topic=self._topic,
                partition=self._partition,
            )
        records, position = self._replay.read(offset)
        if position >= self._end:
            self._close_replay()
        return records, position

    def _close_replay(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.close()
