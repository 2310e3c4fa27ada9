"""The relay: sends the outbox to `<context>.commands`, each aggregate's commands in their order.

A row goes once the broker has acknowledged its record; a process that dies in between leaves it to
the next one, which sends it again. That is harmless: a command is done once, by its id.

What cannot be sent (another version wrote it, or it does not fit its type) is parked with all that
is behind it to the same aggregate, and tried again after a pause; everything else goes on. Neither
is a command sent that has waited longer than commands are remembered: perhaps it was sent long ago,
and only the answer was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaException, Producer

from tidelog.canonical import command_hash
from tidelog.codec import Codec
from tidelog.errors import CodecError, TidelogError, Unavailable
from tidelog.ids import utc_now
from tidelog.kafka.security import connection
from tidelog.logging import get_logger
from tidelog.message import Command, Context
from tidelog.partitioner import partition_of
from tidelog.postgres.outbox import Depth, Outbox, OutboxRow
from tidelog.wire import CommandMetadata, Headers, command_headers, commands_topic

BATCH_MAX = 500
IDLE_S = 0.5
DEPTH_S = 1.0
DELIVERY_TIMEOUT_MS = 10_000
FLUSH_S = 12.0
RECORD_BYTES_MAX = 990_000
"""Key, value and headers; librdkafka takes no more than 1,000,000 bytes with what frames them."""

log = get_logger(__name__)


class TooOld(TidelogError):
    """A command that has waited longer than commands are remembered."""


class Record(NamedTuple):
    """A command as it goes to Kafka."""

    topic: str
    value: bytes
    key: bytes
    partition: int
    headers: Headers


class OutboxRelay:
    """Relays the parts of the outbox that no other process relays. One thread uses it."""

    def __init__(
        self,
        contexts: Sequence[Context],
        codec: Codec,
        *,
        bootstrap_servers: str,
        partitions: int,
        topic_prefix: str,
        dsn: str,
        schema: str,
        window_hours: int,
    ) -> None:
        """`window_hours` is for how long a command is known again by its id."""
        self._window_s = window_hours * 3_600
        self._codec = codec
        self._prepared = False
        self._contexts = {context.name: context for context in contexts}
        self._commands: dict[str, type[Command]] = {
            command.__name__: command for each in contexts for command in each.command_types
        }
        self._partitions = partitions
        self._topic_prefix = topic_prefix
        self._outbox = Outbox(dsn=dsn, schema=schema)
        self._bootstrap_servers = bootstrap_servers
        self._producer = _producer(bootstrap_servers)

    @property
    def buckets(self) -> int:
        """How many parts of the outbox this process relays."""
        return self._outbox.buckets

    def relay(self) -> int:
        """Send what is there; how many commands were sent. Unavailable: try again later."""
        if not self._prepared:
            # A dead process has left commands, perhaps: they are sent before any event is read.
            self._codec.prepare()
            # What another version could not send this one can, perhaps.
            self._outbox.wake()
            self._prepared = True
        sent = list[OutboxRow]()
        records = list[Record]()
        refused: dict[tuple[str, str], tuple[OutboxRow, Exception]] = {}
        for row in self._outbox.take(BATCH_MAX):
            aggregate = (row.context, row.subject)
            if aggregate in refused:
                continue  # it waits behind the one that cannot be sent
            try:
                records.append(self._record(row))
                sent.append(row)
            except Exception as error:  # it harms its own aggregate, and no other
                refused[aggregate] = row, error
        if sent:
            self._send(records)
            self._outbox.sent(sent)
        for row, reason in refused.values():
            self._park(row, reason)
        return len(sent)

    def wait(self, timeout_s: float) -> None:
        """Until something is put into the outbox, or the time is over."""
        self._outbox.wait(timeout_s)

    def depth(self) -> Depth:
        """How much waits in the outbox."""
        return self._outbox.depth()

    def close(self) -> None:
        """Let go of the outbox."""
        self._outbox.close()

    # --- sending ----------------------------------------------------------------------------

    def _record(self, row: OutboxRow) -> Record:
        """The command as a record; whatever it raises, this version cannot send it."""
        if row.age_s > self._window_s:
            raise TooOld(
                f"{row.command_type} has waited for {row.age_s / 3_600:.0f} h, and for "
                f"{self._window_s / 3_600:.0f} h a command is known again: sent now it might be "
                "done twice. Look at its aggregate, then end the saga with "
                "`tidelog saga skip|compensate`."
            )
        context = self._contexts[row.context]
        command = msgspec.json.decode(row.data, type=self._commands[row.command_type])
        full_name = context.full_name(type(command))
        metadata = CommandMetadata(
            command_id=row.command_id,
            type=full_name,
            subject=row.subject,
            sent_at=utc_now(),
            correlation_id=row.correlation_id,
            causation_id=row.causation_id,
            command_hash=command_hash(full_name, command),
            traceparent=row.traceparent,
        )
        record = Record(
            commands_topic(context.name, self._topic_prefix),
            self._codec.encode(command),
            row.subject.encode(),
            partition_of(row.subject, self._partitions),
            list(command_headers(metadata, context.source)),
        )
        if _bytes_of(record) > RECORD_BYTES_MAX:
            raise CodecError(f"{row.command_type}: its record takes over {RECORD_BYTES_MAX} bytes")
        return record

    def _send(self, records: Sequence[Record]) -> None:
        """Send in order, and wait until the broker has all of them."""
        failures: list[str] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failures.append(error.str())

        produce: Any = self._producer.produce
        try:
            for topic, value, key, partition, headers in records:
                produce(topic, value, key, partition, on_delivery=delivered, headers=headers)
            left = self._producer.flush(FLUSH_S)
        except (KafkaException, BufferError) as error:
            self._begin_anew()
            raise Unavailable(f"Kafka takes no command: {error}") from error
        if failures or left:
            # Some may have arrived: all are sent again, which is harmless, and stay in order.
            self._begin_anew()
            raise Unavailable(f"Kafka did not take {len(failures) + left} commands: {failures[:1]}")

    def _begin_anew(self) -> None:
        """A producer that failed may never send again."""
        self._producer.purge()
        self._producer = _producer(self._bootstrap_servers)

    def _park(self, row: OutboxRow, error: Exception) -> None:
        log.error(
            "relay.command_parked",
            command=row.command_id,
            type=row.command_type,
            context=row.context,
            subject=row.subject,
            error=f"{type(error).__name__}: {error}",
        )
        self._outbox.park(row, error)


def run_relay(
    relay: OutboxRelay,
    stopping: threading.Event,
    told: Callable[[Depth], None],
    trouble: Callable[[str], None],
) -> None:
    """Relay until stopped.

    `told` hears how much waits; `trouble` what is wrong, and the empty text when nothing is.
    """
    next_count = 0.0
    while not stopping.is_set():
        try:
            sent = relay.relay()
            # Counting takes as long as the outbox is: not once for each batch of a long one.
            if time.monotonic() >= next_count:
                told(relay.depth())
                next_count = time.monotonic() + DEPTH_S
            trouble("")
            if not sent:
                relay.wait(IDLE_S)
        except Unavailable as error:
            trouble(str(error))
            stopping.wait(IDLE_S)
        except Exception as error:  # a fault of ours: without the relay every saga stands still
            log.error("relay.failed", exc_info=error)
            trouble(f"{type(error).__name__}: {error}")
            stopping.wait(IDLE_S)
    relay.close()


def _bytes_of(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key) + len(record.value) + headers


def _producer(bootstrap_servers: str) -> Producer:
    return Producer(
        {
            **connection(bootstrap_servers),
            "client.id": "tidelog-outbox-relay",
            # In order and without doubles within one life of the process.
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "message.timeout.ms": DELIVERY_TIMEOUT_MS,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
        }
    )
