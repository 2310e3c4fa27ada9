"""Appends commands to `<context>.commands`: an idempotent producer, durable when awaited."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from confluent_kafka import KafkaException, Producer

from tidelog.errors import Overloaded, Unavailable
from tidelog.kafka.security import connection
from tidelog.wire import Headers

POLL_S = 0.1
DELIVERY_TIMEOUT_MS = 10_000


class CommandSender:
    """Sends records and resolves a future when the broker has them."""

    def __init__(self, bootstrap_servers: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                **connection(bootstrap_servers),
                "client.id": "tidelog-command-sender",
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 1,
                "message.timeout.ms": DELIVERY_TIMEOUT_MS,
                "queue.buffering.max.messages": 10_000,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1_000,
            }
        )
        self._thread = threading.Thread(target=self._poll, name="command-sender", daemon=True)
        self._thread.start()

    def send(
        self, topic: str, partition: int, key: bytes, value: bytes, headers: Headers
    ) -> asyncio.Future[None]:
        """A future that is done once the record is durable, and fails with Unavailable."""
        future: asyncio.Future[None] = self._loop.create_future()

        def delivered(error: Any, _message: Any) -> None:
            self._loop.call_soon_threadsafe(_settle, future, error)

        produce: Any = self._producer.produce
        try:
            produce(topic, value, key, partition, on_delivery=delivered, headers=headers)
        except BufferError:
            raise Overloaded("Too many commands wait to be sent to Kafka.") from None
        except KafkaException as error:
            raise Unavailable(f"Kafka takes no command: {error.args[0].str()}") from error
        return future

    def close(self, timeout_s: float) -> None:
        """Flush and stop."""
        self._producer.flush(timeout_s)
        self._stopping.set()
        self._thread.join(timeout_s)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)


def _settle(future: asyncio.Future[None], error: Any) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(Unavailable(f"Kafka did not take the command: {error.str()}"))
