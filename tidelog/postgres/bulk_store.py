"""A generation as it is filled in bulk: whole rows by COPY, and how far each shard is with them.

Rows and progress of a segment are one transaction, advanced by compare-and-set: a load can be
killed at any moment and go on from the last segment, and a worker left behind writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from tidelog.engine.bulk import KeyFailure, Segment
from tidelog.engine.folding import StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.errors import CodecError, Unavailable
from tidelog.parking import PAUSES_S
from tidelog.postgres.projection_store import ERROR_CHARACTERS_MAX, RowStatements
from tidelog.postgres.tables import Generation, ReadModelTable
from tidelog.postgres.trouble import reason

CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_MS = 10_000
LOAD_KEYS_MAX = 20_000


class Superseded(Unavailable):
    """Another worker has advanced the shard meanwhile: nothing was written."""


def connect(dsn: str, application_name: str) -> Connection[Any]:
    """A connection for long work. Unavailable where PostgreSQL does not answer."""
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name=application_name[:63],
            prepare_threshold=0,
            # Not waiting for the disk is safe: rows and progress go back together.
            options=f"-c synchronous_commit=off -c lock_timeout={LOCK_TIMEOUT_MS} "
            "-c statement_timeout=0 -c maintenance_work_mem=256MB",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
    except psycopg.Error as error:
        raise Unavailable(f"PostgreSQL does not answer: {reason(error)}") from error


class BulkStore:
    """How far the shards of a generation are. One thread uses it."""

    def __init__(self, generation: Generation, *, dsn: str, schema: str) -> None:
        self.generation = generation
        self.connection = connect(dsn, f"tidelog-bulk-{generation.table}")
        self._progress = sql.Identifier(schema, "rebuild_progress")

    def progress(self, shard: int) -> dict[Partition, Progress]:
        """How far the shard is with each of its partitions."""
        found = self._run(
            'SELECT context, partition, sequence, "offset" FROM {} '
            "WHERE projection = %s AND version = %s AND generation = %s AND shard = %s",
            (*self.generation, shard),
        )
        return {
            Partition(context, number): Progress(sequence, offset)
            for context, number, sequence, offset in found
        }

    @contextmanager
    def segment(
        self, shard: int, before: Mapping[Partition, Progress], after: Mapping[Partition, Progress]
    ) -> Iterator[Connection[Any]]:
        """A transaction that advances the shard. Superseded where somebody else was faster."""
        places = sorted(at for at in after if after[at] != before[at])
        with errors(self.generation), self.connection.transaction():
            advanced = self.connection.execute(
                sql.SQL(
                    'UPDATE {} AS p SET sequence = n.sequence, "offset" = n."offset" '
                    "FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::bigint[]) "
                    'AS n(context, partition, old_sequence, sequence, "offset") '
                    "WHERE p.projection = %s AND p.version = %s AND p.generation = %s "
                    "AND p.shard = %s AND p.context = n.context AND p.partition = n.partition "
                    "AND p.sequence = n.old_sequence"
                ).format(self._progress),
                (
                    [at.context for at in places],
                    [at.number for at in places],
                    [before[at].sequence for at in places],
                    [after[at].sequence for at in places],
                    [after[at].offset for at in places],
                    *self.generation,
                    shard,
                ),
            )
            if advanced.rowcount != len(places):
                raise Superseded(
                    f"{self.generation.table}: shard {shard} is not where this worker left it; "
                    "another rebuild goes on with it, or it was cancelled."
                )
            yield self.connection

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _run(self, text: LiteralString, values: Sequence[Any]) -> psycopg.Cursor[Any]:
        with errors(self.generation):
            return self.connection.execute(sql.SQL(text).format(self._progress), values)


class RowStore:
    """The rows of a generation, written whole. One thread uses it."""

    def __init__(
        self, table: ReadModelTable, connection: Connection[Any], parked_keys: sql.Identifier
    ) -> None:
        self._table = table
        self._connection = connection
        self._statements = RowStatements(table)
        self._parked_keys = parked_keys
        columns = sql.SQL(", ").join(sql.Identifier(name) for name in table.columns)
        self._copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(table.schema, table.table.name), columns
        )

    def load(self, keys: Sequence[str]) -> dict[str, StoredRow]:
        """The rows of these keys, where there are any."""
        rows: dict[str, StoredRow] = {}
        with errors(self._table.generation):
            for start in range(0, len(keys), LOAD_KEYS_MAX):
                found = self._connection.execute(
                    self._statements.select_keys,
                    (list(keys[start : start + LOAD_KEYS_MAX]),),
                    binary=True,
                )
                for record in found:
                    row = self._table.stored_row(record)
                    rows[getattr(row.row, self._table.key)] = row
        return rows

    def parked(self) -> dict[str, dict[Partition, Progress]]:
        """The keys that are parked, and up to where their rows hold their events."""
        with errors(self._table.generation):
            return read_parked(self._connection, self._parked_keys, self._table.generation)

    def write(self, segment: Segment) -> None:
        """Write the rows in the caller's transaction."""
        self.copy(segment.added)
        if segment.changed:
            self._connection.execute(
                self._statements.upsert, self._table.column_values(list(segment.changed))
            )
        if segment.deleted:
            self._connection.execute(self._statements.delete, (list(segment.deleted),))
        passed = dict(segment.passed)
        for failure in segment.parked:
            self._park(failure, passed.pop(failure.key, 0))
        if passed:
            self._connection.execute(
                self._statements.count_waiting, (list(passed), list(passed.values()))
            )

    def refused(self, rows: Sequence[StoredRow]) -> dict[str, Exception]:
        """The keys whose rows the table does not take, and why: found by halves, nothing written.

        In the caller's hands, outside a transaction.
        """
        try:
            with errors(self._table.generation), self._connection.transaction(force_rollback=True):
                values = self._table.column_values(rows)
                self._connection.execute(self._statements.upsert, values)
        except CodecError as error:
            if len(rows) == 1:
                return {getattr(rows[0].row, self._table.key): error}
            middle = len(rows) // 2
            return self.refused(rows[:middle]) | self.refused(rows[middle:])
        return {}

    def copy(self, rows: Sequence[StoredRow]) -> None:
        """Add rows that are not there yet: the fastest way in."""
        if not rows:
            return
        columns = self._table.column_values(rows)
        nested = [cast == "jsonb" for cast in self._table.casts]
        values: list[Iterable[Any]] = [
            map(_as_jsonb, column) if is_nested else column
            for column, is_nested in zip(columns, nested, strict=True)
        ]
        with self._connection.cursor() as cursor, cursor.copy(self._copy) as copy:
            copy.set_types(["bytea" if cast == "jsonb" else cast for cast in self._table.casts])
            write = copy.write_row
            for row in zip(*values, strict=True):
                write(row)

    def _park(self, failure: KeyFailure, waiting: int) -> None:
        self._connection.execute(
            sql.SQL(
                "INSERT INTO {} (projection, version, generation, key, context, partition, "
                'sequence, "offset", aggregate_id, event_type, after, waiting, attempts, '
                "error_type, error, next_attempt_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, "
                "%s, %s, %s, 1, %s, %s, now() + make_interval(secs => %s))"
            ).format(self._parked_keys),
            (
                *self._table.generation,
                failure.key,
                *failure.partition,
                failure.sequence,
                failure.offset,
                failure.aggregate_id,
                failure.kind,
                Jsonb({str(at): progress for at, progress in failure.after.items()}),
                waiting,
                type(failure.error).__name__,
                str(failure.error).replace("\0", "")[:ERROR_CHARACTERS_MAX],
                PAUSES_S[0],
            ),
        )


def read_parked(
    connection: Connection[Any], parked_keys: sql.Identifier, generation: Generation
) -> dict[str, dict[Partition, Progress]]:
    """The parked keys of a generation, and up to where their rows hold their events."""
    found = connection.execute(
        sql.SQL(
            "SELECT key, after FROM {} WHERE projection = %s AND version = %s AND generation = %s"
        ).format(parked_keys),
        generation,
    )
    return {
        key: {_partition(at): Progress(*progress) for at, progress in after.items()}
        for key, after in found
    }


def read_stale(
    connection: Connection[Any], parked_keys: sql.Identifier, generation: Generation
) -> frozenset[str]:
    """The parked keys of a generation whose rows are about to be folded again."""
    found = connection.execute(
        sql.SQL(
            "SELECT key FROM {} WHERE stale AND projection = %s AND version = %s "
            "AND generation = %s"
        ).format(parked_keys),
        generation,
    )
    return frozenset(key for (key,) in found)


def _partition(text: str) -> Partition:
    context, _, number = text.rpartition(":")
    return Partition(context, int(number))


def _as_jsonb(text: str | None) -> bytes | None:
    """PostgreSQL's binary form of jsonb: a version, then the text."""
    return None if text is None else b"\x01" + text.encode()


@contextmanager
def errors(generation: Generation) -> Iterator[None]:
    """What PostgreSQL refuses or loses becomes an error of ours."""
    try:
        yield
    except psycopg.DataError as error:
        raise CodecError(f"{generation.table} refuses a value: {reason(error)}") from error
    except OverflowError as error:  # psycopg's binary form of a number that is too large
        raise CodecError(f"{generation.table} refuses a value: {error}") from error
    except psycopg.Error as error:
        raise Unavailable(
            f"PostgreSQL cannot work on {generation.table} now: {reason(error)}"
        ) from error
