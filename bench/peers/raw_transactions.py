"""R4's peer: a bare transaction loop on one partition: begin, produce n records, commit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice
from time import perf_counter
from typing import Any

from confluent_kafka import Producer

from bench.sample import Sample, Stopwatch
from bench.shop import order_ids, records
from bench.stack import Stack, codec_of, create_topic
from tidelog.engine.ports import OutgoingRecord

BATCHES = 64
COMMIT_TIMEOUT_S = 30.0


class RawTransactions:
    """`ids` transactional ids used in turn, each transaction after the one before it."""

    def __init__(self, stack: Stack, topic: str, batch: int, ids: int) -> None:
        create_topic(stack, topic, 1)
        self._stack = stack
        self._topic = topic
        self._batch = batch
        self._batches = _prebuilt(stack, topic, batch)
        self._producers = [transactional(stack.kafka, f"{topic}-{number}") for number in range(ids)]
        self._turn = 0

    def run(self, seconds: float) -> Sample:
        """One transaction after the other."""
        watch = Stopwatch([self._stack.kafka_pid])
        until, first = perf_counter() + seconds, self._turn
        while perf_counter() < until:
            self._transaction(self._turn)
            self._turn += 1
        transactions = self._turn - first
        return watch.sample(transactions * self._batch, {"commands/tx": float(self._batch)})

    def close(self) -> None:
        """Nothing is left to stop."""

    def _transaction(self, turn: int) -> None:
        producer = self._producers[turn % len(self._producers)]
        producer.begin_transaction()
        _produce(producer, self._topic, self._batches[turn % BATCHES])
        producer.commit_transaction(COMMIT_TIMEOUT_S)


class OverlappedTransactions(RawTransactions):
    """Two ids in turn; while one commits in a thread, the next transaction's records are sent."""

    def __init__(self, stack: Stack, topic: str, batch: int) -> None:
        super().__init__(stack, topic, batch, ids=2)

    def close(self) -> None:
        """The transaction that was sent ahead is not committed."""
        if self._turn:
            self._producers[self._turn % 2].abort_transaction(COMMIT_TIMEOUT_S)

    def _transaction(self, turn: int) -> None:
        mine, other = self._producers[turn % 2], self._producers[(turn + 1) % 2]
        if turn == 0:
            self._send(mine, turn)
        commit = threading.Thread(target=mine.commit_transaction, args=(COMMIT_TIMEOUT_S,))
        commit.start()
        self._send(other, turn + 1)
        commit.join()

    def _send(self, producer: Producer, turn: int) -> None:
        producer.begin_transaction()
        _produce(producer, self._topic, self._batches[turn % BATCHES])


def _produce(producer: Producer, topic: str, batch: Sequence[OutgoingRecord]) -> None:
    produce: Any = producer.produce  # its stub refuses headers of bytes alone
    for key, value, headers in batch:
        produce(topic, value, key, 0, headers=headers)


def _prebuilt(stack: Stack, topic: str, batch: int) -> list[list[OutgoingRecord]]:
    keys = list(islice(order_ids(), BATCHES * batch))
    built = records(codec_of(stack, topic), keys)
    return [built[start : start + batch] for start in range(0, len(built), batch)]


def transactional(bootstrap_servers: str, transactional_id: str) -> Producer:
    """A producer whose transactions have begun to be possible."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "transactional.id": transactional_id,
            "acks": "all",
            # The commit flushes at once; until then the records gather into one request.
            "linger.ms": 100,
            "batch.num.messages": 100_000,
            "batch.size": 8 * 1024 * 1024,
            "message.max.bytes": 8 * 1024 * 1024,
            "retry.backoff.ms": 5,
            "socket.nagle.disable": True,
        }
    )
    producer.init_transactions(COMMIT_TIMEOUT_S)
    return producer
