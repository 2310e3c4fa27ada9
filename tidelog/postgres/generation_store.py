"""What every store of a generation does alike: its connection, its registration, its positions.

Exactly-once by compare-and-set: a transaction advances the stored progress from what the batch
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

from tidelog.engine.folding import Decisions
from tidelog.engine.heeded import Heeded, check_known, known_of
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Step, TopicInfo
from tidelog.engine.reading import ParkedRecord, Partition
from tidelog.errors import (
    CodecError,
    DefinitionChanged,
    GenerationGone,
    TopicRecreated,
)
from tidelog.position import Position
from tidelog.postgres.connection import Reconnecting
from tidelog.postgres.generations import register, registered
from tidelog.postgres.migrations import lock, migrate
from tidelog.postgres.notices import CHANNEL, notices
from tidelog.postgres.tables import Generation
from tidelog.postgres.trouble import reason

# A transaction that waits longer than this for a lock gives up and is tried again.
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
REASON_CHARACTERS_MAX = 500


class GenerationStore:
    """One generation in PostgreSQL. One thread uses it; it reconnects where its connection broke.

    `definition` is the hash of the definition that folds it; `decisions` are those that whoever
    writes its rows knows of.
    """

    def __init__(
        self,
        generation: Generation,
        definition: str,
        *,
        dsn: str,
        schema: str,
        decisions: Decisions | None = None,
    ) -> None:
        self.generation = generation
        self.schema = schema
        self._definition = definition
        self._statements = _Statements(generation, schema)
        self._topics: dict[str, TopicInfo] = {}
        self._decisions: Decisions = {} if decisions is None else decisions
        self._heeded: dict[Partition, Heeded] = {}
        self._connection = Reconnecting(
            dsn,
            name=f"tidelog-{generation.table}",
            # Not waiting for the disk is safe here: a crash of PostgreSQL takes rows and
            # progress back together, and the log gives them again.
            options=f"-c synchronous_commit=off -c lock_timeout={LOCK_TIMEOUT_MS} "
            f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
            "-c idle_in_transaction_session_timeout=60000",
            trouble=f"PostgreSQL cannot write {generation.table} now",
            prepare_after=0,  # every statement here is sent over and over
        )

    def open(
        self,
        topics: Mapping[str, TopicInfo],
        create: Sequence[sql.SQL | sql.Composed],
        *,
        read_model: bool = True,
    ) -> None:
        """Make the table, the view and the positions that are missing; check the topics' ids.

        What is no read model has tables and positions, but no view and no generations.
        """
        self._topics = dict(topics)
        with self.transaction() as connection:
            migrate(connection, self.schema)
            lock(connection, f"tidelog-read-model:{self.schema}:{self.generation}")
            if read_model:
                self._register(connection)
            for statement in create:
                connection.execute(statement)
            if read_model:
                self._make_view(connection)
            self._make_positions(connection)

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is folded in. TopicRecreated where the log is another one.

        Unavailable where the rows have heeded decisions that are not known here yet.
        """
        with self.transaction() as connection:
            return self._read_progress(connection)

    def contexts_written(self) -> frozenset[str]:
        """The contexts of whose events the rows hold any."""
        with self.transaction() as connection:
            found = connection.execute(self._statements.progress, self.generation)
            return frozenset(context for context, _, sequence, *_ in found if sequence)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # --- parts of a step's transaction ------------------------------------------------------

    def advance(self, connection: Connection[Any], step: Step) -> psycopg.Cursor[Any] | None:
        """Advance the progress and lock it; None where the step advances nothing.

        It advances nothing either where other decisions were heeded than when `progress` was read:
        rows may have been folded again since.
        """
        if not step.after:
            return None
        return connection.execute(self._statements.advance, self.advance_values(step))

    @property
    def advance_statement(self) -> bytes:
        """What `advance` sends, for a statement that does more; it takes `advance_values`."""
        return self._statements.advance

    def advance_values(self, step: Step) -> tuple[Any, ...]:
        """The parameters of the statement that advances."""
        places = sorted(step.after)
        return (
            [at.context for at in places],
            [at.number for at in places],
            [self._topics[at.context].id for at in places],
            [step.before[at].sequence for at in places],
            [step.before[at].offset for at in places],
            [step.after[at].sequence for at in places],
            [step.after[at].offset for at in places],
            [self._heeded[at] for at in places],
            *self.generation,
        )

    def park_records(self, connection: Connection[Any], step: Step) -> None:
        """Keep what is not ours aside, with its bytes."""
        for parked in step.parked:
            record, at = parked.record, parked.partition
            connection.execute(
                self._statements.park,
                (
                    *at,
                    self._topics[at.context].id,
                    record.offset,
                    parked.after,
                    parked.fork,
                    _reason(parked),
                    record.key,
                    record.value,
                    Jsonb(_headers(record.headers)),
                ),
            )

    def tell(self, connection: Connection[Any], step: Step) -> None:
        """Tell the readers how far the generation is once the transaction is committed."""
        for notice in self.notices(step):
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, notice))

    def notices(self, step: Step) -> list[str]:
        """What the readers are told."""
        positions = [Position(*at, progress.sequence) for at, progress in step.after.items()]
        return list(notices(self.schema, self.generation, positions))

    # --- opening ----------------------------------------------------------------------------

    def _register(self, connection: Connection[Any]) -> None:
        """Note the first generation of a name, which serves; any other must be noted already."""
        generation = self.generation
        known = registered(connection, self.schema, generation.projection)
        own = [each for each in known if each.generation == generation]
        if own and own[0].definition not in ("", self._definition):
            raise DefinitionChanged(
                f"{generation.projection} changed without a new version: its rows were folded by "
                f"other code. Raise its version to {generation.version + 1} and rebuild it; or, "
                "where the change makes no difference to the rows, prove it with "
                f"`tidelog projection adopt {generation.projection}`."
            )
        if known and not own:
            # Making it again would leave a table that nobody asked for, and that no view shows.
            raise GenerationGone(f"{generation.table} is not registered: it was dropped.")
        if not known:
            register(
                connection,
                self.schema,
                generation,
                serving=True,
                state="live",
                definition=self._definition,
            )

    def _make_view(self, connection: Connection[Any]) -> None:
        """Show the generation that serves where the view is missing; one that is there stays."""
        name = self.generation.projection
        view = sql.Identifier(self.schema, name).as_string(connection)
        there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (view,)).fetchone()
        if there == (True,):
            return
        for each in registered(connection, self.schema, name):
            if each.serving and each.generation == self.generation:
                connection.execute(self._statements.create_view)

    def _make_positions(self, connection: Connection[Any]) -> None:
        for context, topic in self._topics.items():
            connection.execute(
                self._statements.make_positions,
                (
                    *self.generation,
                    context,
                    topic.id,
                    # Of what is folded from now on.
                    known_of(self._decisions),
                    topic.partitions - 1,
                ),
            )
        self._read_progress(connection)

    def _read_progress(self, connection: Connection[Any]) -> dict[Partition, Progress]:
        found = connection.execute(self._statements.progress, self.generation)
        progress = {}
        heeded: dict[Partition, Heeded] = {}
        for context, number, sequence, offset, topic_id, at_least in found:
            if context not in self._topics:
                continue
            if topic_id != self._topics[context].id:
                raise TopicRecreated(
                    f"The events topic of {context} is not the one that "
                    f"{self.generation.table} was folded from: its id was {topic_id} and "
                    f"is {self._topics[context].id}. Restore the topic, or rebuild the projection."
                )
            progress[Partition(context, number)] = Progress(sequence, offset)
            heeded[Partition(context, number)] = at_least
        if not progress:
            raise GenerationGone(f"{self.generation.table} was dropped.")
        check_known(self._decisions, heeded.values(), self.generation.table)
        self._heeded = heeded
        return progress

    # --- the connection ---------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """One transaction on the connection."""
        with self.errors() as connection, connection.transaction():
            yield connection

    @contextmanager
    def errors(self) -> Iterator[Connection[Any]]:
        """The connection; what PostgreSQL refuses or loses becomes an error of ours.

        After any error the connection is given up: nothing that was under way on it can end later.
        """
        with self._connection.use() as connection:
            try:
                yield connection
            except psycopg.DataError as error:
                self.close()
                table = self.generation.table
                raise CodecError(f"{table} refuses a value: {reason(error)}") from error


class _Statements:
    """The statements, rendered once. Parameters are binary: twice as fast as text in arrays."""

    def __init__(self, generation: Generation, schema: str) -> None:
        def own(name: str) -> sql.Identifier:
            return sql.Identifier(schema, name)

        positions = own("projection_positions")
        self.create_view = rendered(
            "CREATE VIEW {} AS SELECT * FROM {}", own(generation.projection), own(generation.table)
        )
        self.make_positions = rendered(
            "INSERT INTO {} (projection, version, generation, context, topic_id, partition, "
            'heeded, sequence, "offset") SELECT %s, %s, %s, %s, %s, n, %s, 0, -1 '
            "FROM generate_series(0, %s) AS n ON CONFLICT DO NOTHING",
            positions,
        )
        self.progress = rendered(
            'SELECT context, partition, sequence, "offset", topic_id, heeded FROM {} '
            "WHERE projection = %s AND version = %s AND generation = %s",
            positions,
        )
        self.advance = rendered(
            'UPDATE {} AS p SET sequence = n.sequence, "offset" = n."offset", '
            "advanced_at = now() "
            "FROM unnest(%b::text[], %b::int[], %b::text[], %b::bigint[], %b::bigint[], "
            "%b::bigint[], %b::bigint[], %b::text[]) AS n(context, partition, topic_id, "
            'old_sequence, old_offset, sequence, "offset", heeded) '
            "WHERE p.projection = %s AND p.version = %s AND p.generation = %s "
            "AND p.context = n.context AND p.partition = n.partition "
            "AND p.topic_id = n.topic_id AND p.sequence = n.old_sequence "
            'AND p."offset" = n.old_offset AND p.heeded = n.heeded',
            positions,
        )
        self.park = rendered(
            'INSERT INTO {} (context, partition, topic_id, "offset", sequence, fork, reason, '
            "key, value, headers) VALUES (%s, %s, %s, %s, %s, %s, %s, %b, %b, %s) "
            "ON CONFLICT DO NOTHING",
            own("parked_records"),
        )


def rendered(text: LiteralString, *parts: sql.Composable) -> bytes:
    """The statement as bytes: made once, for making it costs more than sending it."""
    return sql.SQL(text).format(*parts).as_bytes(None)


def _reason(parked: ParkedRecord) -> str:
    return parked.reason.replace("\0", "")[:REASON_CHARACTERS_MAX]


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[list[str | None]]:
    """Header names and values; the values in base64, because they may be any bytes."""
    return [
        [
            name.replace("\0", ""),
            None if value is None else base64.b64encode(value).decode(),
        ]
        for name, value in headers
    ]
