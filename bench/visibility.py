"""From the commit of an event to its row: a writer at a steady rate, and an eye on the table.

Both sides of R9 are watched in this one way: a connection asks, over and over, which of the awaited
rows are there. What the asking costs, at most a pause and a query, is in both sides' figures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from random import Random
from time import perf_counter

import psycopg
from psycopg import sql

from bench.event_log import RecordWriter, placed
from bench.peers.raw_transactions import COMMIT_TIMEOUT_S, transactional
from bench.shop import order_ids
from bench.stack import Stack

COMMITS_PER_S = 50
LOOK_PAUSE_S = 0.000_3
VISIBLE_TIMEOUT_S = 60.0
SEED = 9


class Writer:
    """Places orders in transactions, on two transactional ids in turn, as our owners do."""

    def __init__(self, stack: Stack, prefix: str) -> None:
        self._records = RecordWriter(stack, prefix)
        self._producers = [transactional(stack.kafka, f"{prefix}writer-{id_}") for id_ in "ab"]
        self._ids = order_ids()
        self._random = Random(SEED)
        self._turn = 0

    def write(self, rate: float, seconds: float, committed: Committed) -> None:
        """So many events per second, about 50 commits per second; each is told when it is done."""
        per_commit = max(1, round(rate / COMMITS_PER_S))
        due = perf_counter()
        until = due + seconds
        while due < until:
            time.sleep(max(0.0, due - perf_counter()))
            keys = self.commit(per_commit)
            committed.put((keys, perf_counter()))
            # Uneven, so that it keeps step with no timer of the broker's or the reader's.
            due += self._random.uniform(0.5, 1.5) * per_commit / rate

    def commit(self, events: int) -> Sequence[str]:
        """One transaction; the ids of its orders."""
        keys = [next(self._ids) for _ in range(events)]
        producer = self._producers[self._turn % 2]
        self._turn += 1
        producer.begin_transaction()
        self._records.produce(producer, [placed(key) for key in keys])
        producer.commit_transaction(COMMIT_TIMEOUT_S)
        return keys


Committed = SimpleQueue[tuple[Sequence[str], float]]


class Eye:
    """Sees rows as any reader does: they are committed."""

    def __init__(self, stack: Stack, table: sql.Identifier) -> None:
        self._connection = psycopg.connect(stack.postgres, autocommit=True, prepare_threshold=0)
        self._statement = sql.SQL("SELECT order_id FROM {} WHERE order_id = ANY(%s)").format(table)

    def watch(self, committed: Committed, writing: threading.Thread) -> list[float]:
        """Seconds from the commit to the row of every event, once the writer has ended."""
        awaited: dict[str, float] = {}
        found: list[float] = []
        while awaited or writing.is_alive() or not committed.empty():
            self._take(committed, awaited)
            if awaited:
                found += self._look(awaited)
                time.sleep(LOOK_PAUSE_S)
        return found

    def see(self, keys: Sequence[str]) -> None:
        """Return when the rows are there."""
        awaited = dict.fromkeys(keys, perf_counter())
        while awaited:
            self._look(awaited)
            time.sleep(LOOK_PAUSE_S)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _take(self, committed: Committed, awaited: dict[str, float]) -> None:
        try:
            keys, at = committed.get(block=not awaited, timeout=0.01)
        except Empty:
            return
        awaited.update(dict.fromkeys(keys, at))

    def _look(self, awaited: dict[str, float]) -> list[float]:
        rows = self._connection.execute(self._statement, (list(awaited),), binary=True).fetchall()
        now = perf_counter()
        oldest = min(awaited.values())
        assert now - oldest < VISIBLE_TIMEOUT_S, f"{len(awaited)} rows do not become visible"
        return [now - awaited.pop(key) for (key,) in rows]
