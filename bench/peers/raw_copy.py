"""R6's other peer: COPY of the final rows in PostgreSQL's binary form, made before the clock."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import psycopg
from psycopg import Connection, sql

from bench.backends import backends_of
from bench.event_log import EVENTS_PER_ORDER, LogSpec, schema_of
from bench.peers.order_upsert import OPTIONS
from bench.projecting import SUMMARY
from bench.sample import Sample, Stopwatch
from bench.stack import Stack

BLOCK_BYTES = 1024 * 1024


class RawCopy:
    """Loads its share of the rows into an empty table without any index, again and again.

    Counted in events, as the rebuild is: each row stands for the events of its order.
    """

    def __init__(self, stack: Stack, log: LogSpec, share: int, shares: int) -> None:
        self._backends = backends_of(stack)
        self._connection = psycopg.connect(stack.postgres, autocommit=True, options=OPTIONS)
        source = sql.Identifier(schema_of(log.prefix), SUMMARY)
        self._table = sql.Identifier(schema_of(log.prefix), f"raw_copy_{share}")
        self._execute("CREATE TABLE {} (LIKE {})", self._table, source)
        self._blocks = _dumped(self._connection, source, share, shares)
        self._rows = self._load()

    def run(self, seconds: float) -> Sample:
        """The clock runs while rows are loaded and committed, not while the table is emptied."""
        loads, busy = 0, 0.0
        watch = Stopwatch(self._backends)
        while busy < seconds:
            self._execute("TRUNCATE {}", self._table)
            begun = perf_counter()
            self._load()
            busy, loads = busy + perf_counter() - begun, loads + 1
        taken = watch.sample(loads * self._rows * EVENTS_PER_ORDER)
        return Sample(
            operations=taken.operations,
            seconds=busy,
            cpu_s=taken.cpu_s,
            backend_cpu_s=taken.backend_cpu_s,
            extra={"rows/s": loads * self._rows / busy},
        )

    def close(self) -> None:
        """Remove the table."""
        self._execute("DROP TABLE {}", self._table)
        self._connection.close()

    def _load(self) -> int:
        with self._connection.cursor() as cursor:
            statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(self._table)
            with cursor.copy(statement) as copy:
                for block in self._blocks:
                    copy.write(block)
            return cursor.rowcount

    def _execute(self, text: Any, *parts: sql.Composable) -> None:
        self._connection.execute(sql.SQL(text).format(*parts))


def _dumped(
    connection: Connection[Any], source: sql.Identifier, share: int, shares: int
) -> Sequence[bytes]:
    statement = sql.SQL(
        "COPY (SELECT * FROM {} WHERE abs(hashtext(order_id)::bigint) % {} = {}) "
        "TO STDOUT (FORMAT BINARY)"
    ).format(source, shares, share)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        whole = b"".join(bytes(piece) for piece in copy)
    return [whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)]
