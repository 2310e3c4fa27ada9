"""Parked keys in PostgreSQL: which are due, and the transaction that ends a retry.

A retry reads most of the log while the live fold goes on. Its last transaction locks the positions
of the partitions that feed the row, as every step of the live fold does, so the two never meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from tidelog.definition import definition_hash
from tidelog.engine.folding import Decisions
from tidelog.engine.heeded import Heeded, check_known
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.engine.retrying import (
    Applied,
    Close,
    Forks,
    Halt,
    Loaded,
    ParkedKey,
    Settled,
    attempts_after,
)
from tidelog.parking import pause_after
from tidelog.position import Position
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.notices import CHANNEL, notices
from tidelog.postgres.projection_store import ERROR_CHARACTERS_MAX, RowStatements
from tidelog.postgres.tables import ReadModelTable
from tidelog.projection import Projection


class PostgresParkedStore:
    """The parked keys of one generation. One thread uses it.

    `decisions` are those that its retries fold with.
    """

    def __init__(
        self,
        projection: Projection[Any, Any],
        *,
        dsn: str,
        schema: str,
        generation: int,
        decisions: Decisions | None = None,
    ) -> None:
        self._table = ReadModelTable(projection, generation, schema)
        self._rows = RowStatements(self._table)
        self._generation = GenerationStore(
            self._table.generation, definition_hash(projection), dsn=dsn, schema=schema
        )
        self._schema = schema
        self._decisions: Decisions = {} if decisions is None else decisions

    def load(self, key: str) -> Loaded | None:
        """The parked key, its row and the positions, of one snapshot; None where none is parked.

        Unavailable where the rows have heeded decisions that are not known here yet.
        """
        with self._generation.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # A connection that is named after the table counts as a feed of it.
            connection.execute("SET application_name = 'tidelog-retrier'")
            found = connection.execute(self._sql(_LOAD), (*self._table.generation, key)).fetchone()
            if found is None:
                return None
            context, number, sequence, offset, after, waiting, attempts, stale = found
            places = read_after(after)
            progress, heeded = self._progress(connection, places)
            check_known(self._decisions, heeded.values(), self._table.generation.table)
            parked = ParkedKey(
                key,
                Partition(context, number),
                sequence,
                offset,
                places,
                waiting,
                attempts,
                heeded,
                stale,
            )
            rows = connection.execute(self._rows.select_keys, ([key],), binary=True).fetchall()
            row = self._table.stored_row(rows[0]) if rows and not stale else None
            return Loaded(parked, row, progress, self._forks(connection, parked))

    def settle(self, parked: ParkedKey, close: Close) -> Applied:
        """Lock the positions, ask `close` what to write, and write it, in one transaction."""
        with self._generation.transaction() as connection:
            progress, heeded = self._progress(connection, parked.after, lock=True)
            if len(progress) < len(parked.after) or not self._lock(connection, parked):
                return Applied.OVERTAKEN
            if heeded != parked.heeded:
                return Applied.DECIDED
            settled = close(progress, self._forks(connection, parked))
            if settled is None:
                return Applied.TOO_FAR
            self._write(connection, parked, settled, progress)
        return Applied.DONE

    def close(self) -> None:
        """Close the connection."""
        self._generation.close()

    # --- one transaction --------------------------------------------------------------------

    def _progress(
        self, connection: Connection[Any], places: Iterable[Partition], lock: bool = False
    ) -> tuple[dict[Partition, Progress], dict[Partition, Heeded]]:
        """How far the partitions are that feed the row, and what they have heeded.

        Locked in one order, against deadlocks.
        """
        found = connection.execute(
            self._sql(_POSITIONS_LOCKED if lock else _POSITIONS),
            (*self._table.generation, [str(at) for at in places]),
        ).fetchall()
        progress = {Partition(each[0], each[1]): Progress(each[2], each[3]) for each in found}
        return progress, {Partition(each[0], each[1]): each[4] for each in found}

    def _lock(self, connection: Connection[Any], parked: ParkedKey) -> bool:
        """Whether the key is parked as it was when it was loaded; then it is locked."""
        values = (*self._table.generation, parked.key, _after(parked.after))
        return connection.execute(self._sql(_LOCK), values).fetchone() is not None

    def _forks(self, connection: Connection[Any], parked: ParkedKey) -> Forks:
        found = connection.execute(self._sql(_FORKS), ([str(at) for at in parked.after],))
        return frozenset((Partition(context, number), offset) for context, number, offset in found)

    def _write(
        self,
        connection: Connection[Any],
        parked: ParkedKey,
        settled: Settled,
        progress: Mapping[Partition, Progress],
    ) -> None:
        if settled.changed and settled.row is not None:
            connection.execute(self._rows.upsert, self._table.column_values([settled.row]))
        elif settled.changed:
            connection.execute(self._rows.delete, ([parked.key],))
        if settled.halt is None:
            connection.execute(self._sql(_UNPARK), (*self._table.generation, parked.key))
        else:
            self._park_again(connection, parked, settled, settled.halt)
        positions = [Position(*at, reached.sequence) for at, reached in progress.items()]
        for notice in notices(self._schema, self._table.generation, positions):
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, notice))

    def _park_again(
        self, connection: Connection[Any], parked: ParkedKey, settled: Settled, halt: Halt
    ) -> None:
        fact, error = halt
        attempts = attempts_after(parked, halt)
        # Without an error it is not at its end and goes on at once.
        pause = pause_after(attempts) if error is not None else 0.0
        connection.execute(
            self._sql(_PARK_AGAIN),
            {
                "context": fact.partition.context,
                "partition": fact.partition.number,
                "sequence": fact.sequence,
                "offset": fact.offset,
                "aggregate_id": fact.metadata.subject,
                "event_type": type(fact.event).__name__,
                "after": _after(settled.after),
                "waiting": settled.waiting,
                "folded": settled.folded,
                "attempts": attempts,
                "error_type": None if error is None else type(error).__name__,
                "error": None if error is None else _short(error),
                "pause": pause,
                "projection": self._table.generation.projection,
                "version": self._table.generation.version,
                "generation": self._table.generation.generation,
                "key": parked.key,
            },
        )

    def _sql(self, text: LiteralString) -> sql.Composed:
        schema = self._schema
        return sql.SQL(text).format(
            keys=sql.Identifier(schema, "parked_keys"),
            positions=sql.Identifier(schema, "projection_positions"),
            records=sql.Identifier(schema, "parked_records"),
        )


def read_after(stored: Mapping[str, Any]) -> dict[Partition, Progress]:
    """Up to where a row holds its events, as `parked_keys.after` has it."""
    return {_partition(text): Progress(*progress) for text, progress in stored.items()}


def _partition(text: str) -> Partition:
    context, _, number = text.rpartition(":")
    return Partition(context, int(number))


def _after(after: Mapping[Partition, Progress]) -> Jsonb:
    return Jsonb({str(at): list(progress) for at, progress in after.items()})


def _short(error: Exception) -> str:
    return str(error).replace("\0", "")[:ERROR_CHARACTERS_MAX]


_OWN: LiteralString = "projection = %s AND version = %s AND generation = %s"

_LOAD: LiteralString = (
    'SELECT context, partition, sequence, "offset", after, waiting, attempts, stale '
    "FROM {keys} WHERE " + _OWN + " AND key = %s"
)

_POSITIONS: LiteralString = (
    'SELECT context, partition, sequence, "offset", heeded FROM {positions} WHERE '
    + _OWN
    + " AND context || ':' || partition = ANY(%s::text[]) ORDER BY context, partition"
)
_POSITIONS_LOCKED: LiteralString = _POSITIONS + " FOR UPDATE"

_LOCK: LiteralString = (
    "SELECT 1 FROM {keys} WHERE " + _OWN + " AND key = %s AND after = %s FOR UPDATE"
)

_FORKS: LiteralString = (
    'SELECT context, partition, "offset" FROM {records} '
    "WHERE fork AND context || ':' || partition = ANY(%s::text[])"
)

_UNPARK: LiteralString = "DELETE FROM {keys} WHERE " + _OWN + " AND key = %s"

_PARK_AGAIN: LiteralString = (
    "UPDATE {keys} SET context = %(context)s, partition = %(partition)s, "
    'sequence = %(sequence)s, "offset" = %(offset)s, aggregate_id = %(aggregate_id)s, '
    "event_type = %(event_type)s, after = %(after)s, stale = false, "
    "waiting = coalesce(%(waiting)s, greatest(waiting - %(folded)s, 0)), "
    "attempts = %(attempts)s, error_type = coalesce(%(error_type)s, error_type), "
    "error = coalesce(%(error)s, error), attempted_at = now(), "
    "next_attempt_at = now() + make_interval(secs => %(pause)s) "
    "WHERE projection = %(projection)s AND version = %(version)s "
    "AND generation = %(generation)s AND key = %(key)s"
)
