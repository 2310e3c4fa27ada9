"""Rows and progress of one generation of a projection, in PostgreSQL, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from tidelog.definition import definition_hash
from tidelog.engine.folding import Changes, Decisions, KeyParked, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Applied, Overtaken, Step, TopicInfo, Written
from tidelog.engine.reading import Partition
from tidelog.parking import PAUSES_S
from tidelog.postgres.generation_store import GenerationStore, rendered
from tidelog.postgres.migrations import OVERTAKEN, REQUIRE_ALL
from tidelog.postgres.notices import CHANNEL, PARKED_CHANNEL, parked_notice
from tidelog.postgres.tables import Generation, ReadModelTable
from tidelog.projection import Projection

ERROR_CHARACTERS_MAX = 2_000


class PostgresProjectionStore:
    """The store of one projection's rows. One thread uses it.

    `decisions` are those that its rows are folded with.
    """

    def __init__(
        self,
        projection: Projection[Any, Any],
        *,
        dsn: str,
        schema: str,
        generation: int = 1,
        decisions: Decisions | None = None,
    ) -> None:
        self._table = ReadModelTable(projection, generation, schema)
        self._statements = RowStatements(self._table)
        self._generation = GenerationStore(
            self._table.generation,
            definition_hash(projection),
            dsn=dsn,
            schema=schema,
            decisions=decisions,
        )
        self._at_once = self._statements.at_once(self._generation.advance_statement)

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the tables, the view and the positions that are missing; check the topics' ids."""
        statements = self._table.create_statements()
        self._generation.open(topics, [sql.SQL(statement) for statement in statements])

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is folded in. TopicRecreated where the log is another one."""
        return self._generation.progress()

    def apply(self, step: Step) -> Applied:
        """Advance, park, load, fold and write in one transaction.

        Two round trips: up to the rows that are loaded, and from there to the commit. Where
        nothing needs to be read and rows are written only, it is one statement.
        """
        if step.after and not step.reads and not step.parked:
            changes = step.fold({}, frozenset())
            if changes.upserts and not (changes.deletes or changes.parked or changes.passed):
                return self._apply_at_once(step, changes)
            step = step._replace(fold=lambda _rows, _waiting: changes)  # once is enough
        with (
            self._generation.errors() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            applied = self._apply(connection, step)
            if not isinstance(applied, Written):
                raise psycopg.Rollback
        return applied

    def rows(self) -> dict[str, StoredRow]:
        """Every row, by key."""
        with self._generation.transaction() as connection:
            records = connection.execute(self._statements.select_all, binary=True)
            rows = [self._table.stored_row(record) for record in records]
        return {getattr(row.row, self._table.key): row for row in rows}

    def close(self) -> None:
        """Close the connection."""
        self._generation.close()

    # --- one statement ----------------------------------------------------------------------

    def _apply_at_once(self, step: Step, changes: Changes) -> Applied:
        values = (
            *self._generation.advance_values(step),
            *self._table.column_values(list(changes.upserts.values())),
            len(step.after),
            CHANNEL,
            self._generation.notices(step),
        )
        with self._generation.errors() as connection:
            try:
                connection.execute(self._at_once, values)
            except psycopg.Error as error:
                if error.sqlstate != OVERTAKEN:
                    raise
                return Overtaken()
        return Written(len(changes.upserts), 0)

    # --- one transaction --------------------------------------------------------------------

    def _apply(self, connection: Connection[Any], step: Step) -> Applied:
        keys = list(step.keys)
        # The end of the inner block waits: the progress is locked before the rows are read.
        with connection.pipeline():
            advanced = self._generation.advance(connection, step)
            if step.shared and step.touched:
                locked = (self._table.table.name, list(step.touched))
                connection.execute(self._statements.lock_keys, locked)
            waiting = self._query(connection, self._statements.waiting, step.touched)
            loaded = self._query(connection, self._statements.select_keys, keys)
        if advanced is not None and advanced.rowcount != len(step.after):
            return Overtaken()
        rows = [self._table.stored_row(record) for record in loaded or ()]
        changes = step.fold(
            {getattr(row.row, self._table.key): row for row in rows},
            {key for (key,) in waiting or ()},
        )
        self._write(connection, step, changes)
        return Written(len(changes.upserts), len(changes.deletes), tuple(changes.parked))

    def _query(
        self, connection: Connection[Any], statement: bytes, keys: Sequence[str]
    ) -> psycopg.Cursor[Any] | None:
        """What the statement finds for these keys."""
        return connection.execute(statement, (list(keys),), binary=True) if keys else None

    def _write(
        self,
        connection: Connection[Any],
        step: Step,
        changes: Changes,
    ) -> None:
        if changes.upserts:
            connection.execute(
                self._statements.upsert,
                self._table.column_values(list(changes.upserts.values())),
            )
        if changes.deletes:
            connection.execute(self._statements.delete, (list(changes.deletes),))
        self._generation.park_records(connection, step)
        for parked in changes.parked:
            self._park_key(connection, step, parked)
        if changes.parked:
            notice = parked_notice(self._table.schema, self._table.generation)
            connection.execute("SELECT pg_notify(%s, %s)", (PARKED_CHANNEL, notice))
        if changes.passed:
            counts = (list(changes.passed), list(changes.passed.values()))
            connection.execute(self._statements.count_waiting, counts)
        self._generation.tell(connection, step)

    def _park_key(self, connection: Connection[Any], step: Step, parked: KeyParked) -> None:
        """Park a row's key behind the event that failed, and say up to where the row is folded.

        A row that several partitions feed holds of each what was stored when this step began: the
        advisory lock of its key has kept every other writer from it since.
        """
        fact, error = parked.fact, parked.error
        own = {**step.before, **parked.after} if step.shared else parked.after
        connection.execute(
            self._statements.park_key,
            (
                *self._table.generation,
                parked.key,
                *fact.partition,
                fact.sequence,
                fact.offset,
                fact.metadata.subject,
                type(fact.event).__name__,
                *self._table.generation,
                step.shared,
                Jsonb({str(at): progress for at, progress in own.items()}),
                type(error).__name__,
                str(error).replace("\0", "")[:ERROR_CHARACTERS_MAX],
                PAUSES_S[0],
            ),
        )


class RowStatements:
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
        self.select_all = rendered("SELECT {} FROM {}", shown, rows)
        self.select_keys = rendered(
            "SELECT {} FROM {} WHERE {} = ANY(%b::text[])", shown, rows, key
        )
        self.upsert = rendered(
            "INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT ({}) DO UPDATE SET {}",
            rows,
            columns,
            arrays,
            key,
            updates,
        )
        self.delete = rendered("DELETE FROM {} WHERE {} = ANY(%b::text[])", rows, key)
        self.lock_keys = rendered(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s || ':' || k, 0)) "
            "FROM unnest(%b::text[]) AS k"
        )
        self._require_all = rendered("{}", own(REQUIRE_ALL))
        self._parking(own("parked_keys"), own("projection_positions"), table.generation)

    def at_once(self, advance: bytes) -> bytes:
        """Advance, write rows and tell it, all or nothing.

        The check comes before the rows: what nobody refers to is carried out last.
        """
        return b"".join(
            (
                b"WITH advanced AS (" + advance + b" RETURNING 1), ",
                b"written AS (" + self.upsert + b") ",
                b"SELECT " + self._require_all + b"((SELECT count(*) FROM advanced), %s), ",
                b"(SELECT count(pg_notify(%s, told)) FROM unnest(%b::text[]) AS told)",
            )
        )

    def _parking(
        self, parked_keys: sql.Identifier, positions: sql.Identifier, generation: Generation
    ) -> None:
        own = sql.SQL("projection = {} AND version = {} AND generation = {}").format(*generation)
        self.waiting = rendered(
            "SELECT key FROM {} WHERE {} AND key = ANY(%b::text[])", parked_keys, own
        )
        self.count_waiting = rendered(
            "UPDATE {} AS k SET waiting = k.waiting + n.waiting "
            "FROM unnest(%b::text[], %b::bigint[]) AS n(key, waiting) WHERE {} AND k.key = n.key",
            parked_keys,
            own,
        )
        self.park_key = rendered(
            "INSERT INTO {} (projection, version, generation, key, context, partition, sequence, "
            '"offset", aggregate_id, event_type, after, attempts, error_type, error, '
            "next_attempt_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, "
            "coalesce((SELECT jsonb_object_agg(context || ':' || partition, "
            'jsonb_build_array(sequence, "offset")) FROM {} WHERE projection = %s '
            "AND version = %s AND generation = %s AND %s), '{{}}') || %s, "
            "1, %s, %s, now() + make_interval(secs => %s))",
            parked_keys,
            positions,
        )
