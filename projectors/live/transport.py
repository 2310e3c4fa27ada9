"""How the Faust app reads Kafka: committed records only, from where our own progress says.

Faust's transport is taken as it is but for four things. It reads uncommitted records unless it
writes in transactions itself: here the consumer is made with every setting spelled out. It goes
to the offsets that the group has committed, at its start, after a rebalance and whenever its flow
was stopped: here it goes to the event after the last one that was taken in. It drops records below
the offset that it read last, and so would drop what a rewind asks for: here it never does. And one
record that its client cannot read stops it for good: here it is passed over.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiokafka
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT
from yarl import URL

from tidelog.kafka.security import python_connection

FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
PARTITION_FETCH_BYTES_MAX: Final = 1024 * 1024
FETCH_RECORDS_MAX: Final = 2_000
FETCH_WAIT_MS: Final = 100
"""The broker answers with the first byte; without any, after this long."""

MAX_POLL_INTERVAL_MS: Final = 300_000
METADATA_AGE_MS: Final = 10_000

NextOffset = Callable[[TP], int]
Unreadable = Callable[[TP, int], None]


class LogConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches."""

    _singly = False

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        return aiokafka.AIOKafkaConsumer(
            # Encryption and identity, as every client has them.
            **python_connection(),
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            client_id=conf.broker_client_id,
            group_id=conf.id,
            # A restarted process takes the place of the one before it at once.
            group_instance_id=conf.consumer_group_instance_id,
            # Only what was committed is an event.
            isolation_level="read_committed",
            # Progress is ours: nothing is committed, and a missing offset is a fault of the log.
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            rebalance_timeout_ms=int(conf.broker_session_timeout * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            max_poll_records=FETCH_RECORDS_MAX,
            fetch_min_bytes=1,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_max_bytes=FETCH_BYTES_MAX,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
            # A topic that appears later is found soon.
            metadata_max_age_ms=METADATA_AGE_MS,
            check_crcs=True,
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's own signature
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        """Fetched records; one that the client cannot read is passed over, and no other.

        Kafka lets a header have any bytes for a name, and the client fails on what is no UTF-8,
        each time again. It does not say which partition that was, and loses what it had in hand of
        the others: their sequences tell, and they are read again.
        """
        if not self._singly:
            try:
                records: Mapping[TP, list[Any]] = await super()._fetch_records(
                    consumer, active_partitions, timeout, max_records
                )
                return records
            except UnicodeDecodeError:
                self._singly = True
        return await self._fetch_singly(consumer, active_partitions)

    async def _fetch_singly(
        self, consumer: aiokafka.AIOKafkaConsumer, partitions: set[TP]
    ) -> Mapping[TP, list[Any]]:
        """At most one record of each partition, until the one that cannot be read is found."""
        records: dict[TP, list[Any]] = {}
        for tp in partitions:
            try:
                records |= await super()._fetch_records(consumer, {tp}, 0, 1)
            except UnicodeDecodeError:
                # The position may lie before markers that were skipped on the way to the record.
                offset = consumer._fetcher._records[tp]._partition_records.next_fetch_offset
                consumer.seek(tp, offset + 1)
                self._transport.unreadable(tp, offset)
                self._singly = False
        if not records:
            await asyncio.sleep(FETCH_WAIT_MS / 1000)
        return records

    @property
    def _transport(self) -> LogTransport:
        assert isinstance(self.transport, LogTransport)
        return self.transport

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to the event after the last one that was taken in, in every partition."""
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_to_progress)
        return offsets

    async def _seek_to_progress(self) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        offsets = {tp: self._transport.next_offset(TP(*tp)) for tp in consumer.assignment()}
        for tp, offset in offsets.items():
            consumer.seek(tp, offset)
        return offsets


class ReadOffsets(defaultdict[TP, int | None]):
    """Where Faust remembers what it read last, so as to drop what is below: nothing."""

    def __init__(self) -> None:
        super().__init__(lambda: None)

    def __getitem__(self, _: TP) -> int | None:
        return None


class LogConsumer(driver.Consumer):
    """Hands on every record that is fetched."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = ReadOffsets()

    def _new_consumer_thread(self) -> LogConsumerThread:
        return LogConsumerThread(self, loop=self.loop, beacon=self.beacon)


class LogTransport(driver.Transport):
    """The transport of an app whose state is rebuilt from the log.

    It asks where to read next, and tells of a record that the client cannot read; both on the
    thread that fetches.
    """

    Consumer = LogConsumer

    def __init__(
        self, url: list[URL], app: AppT, next_offset: NextOffset, unreadable: Unreadable
    ) -> None:
        super().__init__(url, app)
        self.next_offset = next_offset
        self.unreadable = unreadable
