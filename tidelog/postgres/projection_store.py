"""Rows and progress of one generation of a projection, in PostgreSQL, in one transaction.

Exactly-once by compare-and-set: the transaction advances the stored progress from what the batch
began at, or it does nothing at all. Whoever finds the progress elsewhere has been overtaken.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from tidelog.engine.folding import Parked, Partition, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.projecting import (
    Applied,
    Failed,
    Overtaken,
    Step,
    TopicInfo,
    Written,
)
from tidelog.errors import CodecError, TopicRecreated, Unavailable
from tidelog.position import Position
from tidelog.postgres.migrations import lock, migrate
from tidelog.postgres.notices import CHANNEL, notices
from tidelog.postgres.tables import ReadModelTable
from tidelog.projection import Projection

CONNECT_TIMEOUT_S = 5
# A transaction that waits longer than this for a lock gives up and is tried again.
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
REASON_CHARACTERS_MAX = 500


class PostgresProjectionStore:
    """The store of one projection. One thread uses it; it reconnects where its connection broke."""

    def __init__(
        self,
        projection: Projection[Any, Any],
        *,
        dsn: str,
        schema: str,
        generation: int = 1,
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._table = ReadModelTable(projection, generation, schema)
        self._statements = _Statements(self._table)
        self._topics: dict[str, TopicInfo] = {}
        self._connection: Connection[Any] | None = None

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the tables, the view and the positions that are missing; check the topics' ids."""
        self._topics = dict(topics)
        with self._transaction() as connection:
            migrate(connection, self._schema)
            lock(
                connection,
                f"tidelog-read-model:{self._schema}:{self._table.generation}",
            )
            for statement in self._table.create_statements():
                connection.execute(sql.SQL(statement))
            self._make_view(connection)
            self._make_positions(connection)

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is folded in. TopicRecreated where the log is another one."""
        with self._transaction() as connection:
            return self._read_progress(connection)

    def apply(self, step: Step) -> Applied:
        """Advance, park, load, fold and write in one transaction.

        Two round trips: up to the rows that are loaded, and from there to the commit.
        """
        with self._errors() as connection, connection.pipeline(), connection.transaction():
            applied = self._apply(connection, step)
            if not isinstance(applied, Written):
                raise psycopg.Rollback
        return applied

    def rows(self) -> dict[str, StoredRow]:
        """Every row, by key."""
        with self._transaction() as connection:
            records = connection.execute(self._statements.select_all, binary=True)
            rows = [self._table.stored_row(record) for record in records]
        return {getattr(row.row, self._table.key): row for row in rows}

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    # --- one transaction --------------------------------------------------------------------

    def _apply(self, connection: Connection[Any], step: Step) -> Applied:
        keys = list(step.keys)
        # The end of the inner block waits: the progress is locked before the rows are read.
        with connection.pipeline():
            advanced = self._advance(connection, step)
            if step.shared and keys:
                connection.execute(self._statements.lock_keys, (self._table.table.name, keys))
            loaded = (
                connection.execute(self._statements.select_keys, (keys,), binary=True)
                if keys
                else None
            )
        if advanced is not None and advanced.rowcount != len(step.after):
            return Overtaken()
        rows = [self._table.stored_row(record) for record in loaded or ()]
        changes = step.fold({getattr(row.row, self._table.key): row for row in rows})
        if changes.failures:
            return Failed(changes.failures)
        self._write(connection, step, changes.upserts, changes.deletes)
        return Written(len(changes.upserts), len(changes.deletes))

    def _advance(self, connection: Connection[Any], step: Step) -> psycopg.Cursor[Any] | None:
        if not step.after:
            return None
        places = sorted(step.after)
        return connection.execute(
            self._statements.advance,
            (
                [at.context for at in places],
                [at.number for at in places],
                [self._topics[at.context].id for at in places],
                [step.before[at].sequence for at in places],
                [step.before[at].offset for at in places],
                [step.after[at].sequence for at in places],
                [step.after[at].offset for at in places],
                *self._table.generation,
            ),
        )

    def _write(
        self,
        connection: Connection[Any],
        step: Step,
        upserts: Mapping[str, StoredRow],
        deletes: Sequence[str],
    ) -> None:
        if upserts:
            connection.execute(
                self._statements.upsert,
                self._table.column_values(list(upserts.values())),
            )
        if deletes:
            connection.execute(self._statements.delete, (list(deletes),))
        for parked in step.parked:
            self._park(connection, parked)
        positions = [Position(*at, progress.sequence) for at, progress in step.after.items()]
        for notice in notices(self._schema, self._table.generation, positions):
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, notice))

    def _park(self, connection: Connection[Any], parked: Parked) -> None:
        record, at = parked.record, parked.partition
        connection.execute(
            self._statements.park,
            (
                *at,
                self._topics[at.context].id,
                record.offset,
                parked.after,
                parked.fork,
                parked.reason.replace("\0", "")[:REASON_CHARACTERS_MAX],
                record.key,
                record.value,
                Jsonb(_headers(record.headers)),
            ),
        )

    # --- opening ----------------------------------------------------------------------------

    def _make_view(self, connection: Connection[Any]) -> None:
        """Show the table where nothing of this name serves yet; a view that is there stays."""
        generation, statements = self._table.generation, self._statements
        served = connection.execute(statements.serving, (generation.projection,))
        first = served.fetchone() is None
        connection.execute(statements.register, (*generation, first))
        if first:
            connection.execute(statements.create_view)

    def _make_positions(self, connection: Connection[Any]) -> None:
        for context, topic in self._topics.items():
            connection.execute(
                self._statements.make_positions,
                (
                    *self._table.generation,
                    context,
                    topic.id,
                    topic.partitions - 1,
                ),
            )
        self._read_progress(connection)

    def _read_progress(self, connection: Connection[Any]) -> dict[Partition, Progress]:
        found = connection.execute(self._statements.progress, self._table.generation)
        progress = {}
        for context, number, sequence, offset, topic_id in found:
            if context not in self._topics:
                continue
            if topic_id != self._topics[context].id:
                raise TopicRecreated(
                    f"The events topic of {context} is not the one that "
                    f"{self._table.generation.table} was folded from: its id was {topic_id} and "
                    f"is {self._topics[context].id}. Restore the topic, or rebuild the projection."
                )
            progress[Partition(context, number)] = Progress(sequence, offset)
        return progress

    # --- the connection ---------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Connection[Any]]:
        with self._errors() as connection, connection.transaction():
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[Connection[Any]]:
        """The connection; what PostgreSQL refuses or loses becomes an error of ours.

        After any error the connection is given up: nothing that was under way on it can end later.
        """
        table = self._table.generation.table
        try:
            yield self._connected()
        except psycopg.DataError as error:
            self.close()
            raise CodecError(f"{table} refuses a value: {_first_line(error)}") from error
        except psycopg.Error as error:
            self.close()
            raise Unavailable(
                f"PostgreSQL cannot write {table} now: {_first_line(error)}"
            ) from error

    def _connected(self) -> Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name=f"tidelog-{self._table.generation.table}"[:63],
                # Every statement here is sent over and over.
                prepare_threshold=0,
                # Not waiting for the disk is safe here: a crash of PostgreSQL takes rows and
                # progress back together, and the log gives them again.
                options=f"-c synchronous_commit=off -c lock_timeout={LOCK_TIMEOUT_MS} "
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
                "-c idle_in_transaction_session_timeout=60000",
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
            )
        return self._connection


class _Statements:
    """The statements, rendered once. Parameters are binary: twice as fast as text in arrays."""

    def __init__(self, table: ReadModelTable) -> None:
        def own(name: str) -> sql.Identifier:
            return sql.Identifier(table.schema, name)

        rows, key = own(table.table.name), sql.Identifier(table.key)
        columns = sql.SQL(", ").join(sql.Identifier(name) for name in table.columns)
        # Nested values come as text: our own decoder reads them, and only once.
        shown = sql.SQL(", ").join(
            sql.SQL("{}::text" if cast == "jsonb" else "{}").format(sql.Identifier(name))
            for name, cast in zip(table.columns, table.casts, strict=True)
        )
        arrays = sql.SQL(", ").join(
            sql.SQL("%b::text[]::jsonb[]" if cast == "jsonb" else f"%b::{cast}[]")
            for cast in table.casts
        )
        updates = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name))
            for name in table.columns
            if name != table.key
        )
        self.select_all = _rendered("SELECT {} FROM {}", shown, rows)
        self.select_keys = _rendered(
            "SELECT {} FROM {} WHERE {} = ANY(%b::text[])", shown, rows, key
        )
        self.upsert = _rendered(
            "INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT ({}) DO UPDATE SET {}",
            rows,
            columns,
            arrays,
            key,
            updates,
        )
        self.delete = _rendered("DELETE FROM {} WHERE {} = ANY(%b::text[])", rows, key)
        self.lock_keys = _rendered(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s || ':' || k, 0)) "
            "FROM unnest(%b::text[]) AS k"
        )
        self.create_view = _rendered(
            "CREATE VIEW {} AS SELECT * FROM {}", own(table.generation.projection), rows
        )
        self._progress(own("projections"), own("projection_positions"))
        self.park = _rendered(
            'INSERT INTO {} (context, partition, topic_id, "offset", sequence, fork, reason, '
            "key, value, headers) VALUES (%s, %s, %s, %s, %s, %s, %s, %b, %b, %s) "
            "ON CONFLICT DO NOTHING",
            own("parked_records"),
        )

    def _progress(self, projections: sql.Identifier, positions: sql.Identifier) -> None:
        self.serving = _rendered("SELECT 1 FROM {} WHERE name = %s AND serving", projections)
        self.register = _rendered(
            "INSERT INTO {} (name, version, generation, serving) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            projections,
        )
        self.make_positions = _rendered(
            "INSERT INTO {} (projection, version, generation, context, topic_id, partition, "
            'sequence, "offset") SELECT %s, %s, %s, %s, %s, n, 0, -1 '
            "FROM generate_series(0, %s) AS n ON CONFLICT DO NOTHING",
            positions,
        )
        self.progress = _rendered(
            'SELECT context, partition, sequence, "offset", topic_id FROM {} '
            "WHERE projection = %s AND version = %s AND generation = %s",
            positions,
        )
        self.advance = _rendered(
            'UPDATE {} AS p SET sequence = n.sequence, "offset" = n."offset" '
            "FROM unnest(%b::text[], %b::int[], %b::text[], %b::bigint[], %b::bigint[], "
            "%b::bigint[], %b::bigint[]) AS n(context, partition, topic_id, old_sequence, "
            'old_offset, sequence, "offset") '
            "WHERE p.projection = %s AND p.version = %s AND p.generation = %s "
            "AND p.context = n.context AND p.partition = n.partition "
            "AND p.topic_id = n.topic_id AND p.sequence = n.old_sequence "
            'AND p."offset" = n.old_offset',
            positions,
        )


def _rendered(text: LiteralString, *parts: sql.Composable) -> bytes:
    """The statement as bytes: made once, for making it costs more than sending it."""
    return sql.SQL(text).format(*parts).as_bytes(None)


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[list[str | None]]:
    """Header names and values; the values in base64, because they may be any bytes."""
    return [
        [
            name.replace("\0", ""),
            None if value is None else base64.b64encode(value).decode(),
        ]
        for name, value in headers
    ]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
