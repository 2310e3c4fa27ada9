"""A command side in one process and in memory: the real writer on the in-memory log.

For unit tests and for tests of the HTTP edge. Commands that are submitted in one turn of the
event loop share a transaction, as they do on Kafka while another transaction commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from tidelog.aggregate import Aggregate
from tidelog.engine.actions import (
    Append,
    Commit,
    Fence,
    FindEnd,
    Read,
    Reset,
)
from tidelog.engine.batch import Request
from tidelog.engine.command import Envelope, Outcome, Refused
from tidelog.engine.ports import Limits, StoredRecord, Tools
from tidelog.engine.writer import PartitionWriter
from tidelog.errors import NotOwner, Unavailable, Unknown
from tidelog.ids import utc_now, uuid7
from tidelog.memory.codec import MemoryCodec
from tidelog.memory.log import MemoryLog
from tidelog.memory.state_store import MemoryStateStore
from tidelog.partitioner import partition_of


class MemoryDoor:
    """The CommandDoor of tests. Set `unavailable` and every command gets that answer instead."""

    def __init__(
        self,
        aggregates: Iterable[Aggregate[Any, Any, Any]],
        *,
        partitions: int = 4,
        limits: Limits | None = None,
    ) -> None:
        self.unavailable: Unavailable | None = None
        self.enqueued: list[tuple[str, Envelope]] = []
        self.outcomes: dict[str, Outcome] = {}
        self._partitions = partitions
        self._owned = {
            aggregate.context.name: [
                _Owned(aggregate, partition, limits or Limits()) for partition in range(partitions)
            ]
            for aggregate in aggregates
        }

    async def submit(self, context: str, envelope: Envelope) -> Outcome:
        """Hand a command in. Raises Unavailable (or a subclass) where it cannot be answered now."""
        if self.unavailable is not None:
            raise self.unavailable
        partition = self.partition_of(context, envelope.key)
        outcome = await self._owned[context][partition].submit(envelope)
        if isinstance(outcome, Refused) and isinstance(outcome.error, Unavailable):
            raise outcome.error
        return outcome

    def partition_of(self, context: str, key: str) -> int:
        """The partition of the key."""
        if context not in self._owned:
            raise Unknown(f"There is no context of that name; known: {[*self._owned]}.")
        return partition_of(key, self._partitions)

    async def enqueue(self, context: str, envelope: Envelope) -> None:
        """Take the command as if through the topic; its outcome lands in `outcomes`."""
        self.partition_of(context, envelope.key)
        self.enqueued.append((context, envelope))
        self.outcomes[envelope.command_id] = await self.submit(context, envelope)

    def events(self, context: str, partition: int) -> list[StoredRecord]:
        """All committed records of a partition."""
        return self._owned[context][partition].log.read(0)[0]

    def stop(self) -> None:
        """Give all partitions up; waiting commands are answered NotOwner."""
        for owned in self._owned.values():
            for one in owned:
                one.stop()


class _Owned:
    """One partition: its log, its writer, and the driver's loop in a few lines."""

    def __init__(self, aggregate: Aggregate[Any, Any, Any], partition: int, limits: Limits) -> None:
        self.log = MemoryLog()
        self._epochs: dict[str, int] = {}
        self._landed: dict[str, tuple[int, int]] = {}
        self._scheduled = False
        self._writer = PartitionWriter(
            context=aggregate.context.name,
            partition=partition,
            aggregate=aggregate,
            store=MemoryStateStore(),
            tools=Tools(
                codec=MemoryCodec(aggregate.context.event_types),
                new_id=uuid7,
                now=utc_now,
            ),
            limits=limits,
        )

    async def submit(self, envelope: Envelope) -> Outcome:
        """Offer the command; the answer comes with the transaction of this turn of the loop."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        self._writer.offer(
            Request(envelope=envelope, reply=answer.set_result, is_abandoned=answer.cancelled)
        )
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn)
        return await answer

    def stop(self) -> None:
        """Answer what waits and do nothing more."""
        self._writer.stop(NotOwner("This partition has moved to another instance."))
        self._answer()

    def _turn(self) -> None:
        self._scheduled = False
        acted = True
        while acted or not self._writer.idle:
            self._writer.decide(sure=True)
            acted = self._act()
            self._answer()
            if not acted and not self._writer.serving:
                break
        if self._writer.state.unsaved():
            self._writer.state.checkpoint()

    def _answer(self) -> None:
        for request, outcome in self._writer.take_answers():
            if not request.is_abandoned():
                request.reply(outcome)

    def _act(self) -> bool:
        """Do the next action; memory never fails and never takes time."""
        writer = self._writer
        match writer.next_action():
            case None:
                return False
            case Fence(slot):
                self._epochs[slot.value] = self.log.init(slot.value)
                writer.fenced()
            case FindEnd():
                writer.end_found(self.log.high_watermark)
            case Read(offset):
                writer.records_read(*self.log.read(offset))
            case Append(slot, begin, records):
                epoch = self._epochs[slot.value]
                first, last = self.log.append(slot.value, epoch, records, begin=begin)
                if not begin:
                    first = self._landed[slot.value][0]
                self._landed[slot.value] = (first, last)
            case Commit(slot):
                self.log.end(slot.value, self._epochs[slot.value], commit=True)
                writer.committed(*self._landed[slot.value])
            case Reset():
                writer.resumed()
        return True
