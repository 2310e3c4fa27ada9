"""Events and progress of one generation of a SqlProjection, in PostgreSQL, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import Connection, sql

from tidelog.definition import definition_hash
from tidelog.engine.folding import Decisions
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Applied, Overtaken, Step, TopicInfo, Written
from tidelog.engine.reading import Partition
from tidelog.errors import DefinitionChanged
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.tables import Generation, checked_name


class SqlProjectionStore:
    """The store of a projection that writes its own SQL. One thread uses it.

    Nothing is loaded and nothing is folded: a step's `fold`, `keys` and `touched` are not used.
    """

    def __init__(
        self,
        projection: SqlProjection,
        *,
        dsn: str,
        schema: str,
        generation: int = 1,
        decisions: Decisions | None = None,
    ) -> None:
        own = Generation(projection.name, projection.version, generation)
        self._projection = projection
        self._table = sql.Identifier(schema, checked_name(own.table))
        self._generation = GenerationStore(
            own, definition_hash(projection), dsn=dsn, schema=schema, decisions=decisions
        )

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the table, the view and the positions that are missing; check the topics' ids.

        A context may be new to the projection. One that it reads no more is another definition.
        """
        self._generation.open(topics, create_statements(self._projection, self._generation))
        left = sorted(self._generation.contexts_written() - topics.keys())
        if left:
            name, version = self._projection.name, self._projection.version
            raise DefinitionChanged(
                f"{name} reads {left[0]} no more, and its rows hold events of it. Read it again, "
                f"or raise the version of {name} to {version + 1} and rebuild it."
            )

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is written. TopicRecreated where the log is another one."""
        return self._generation.progress()

    def apply(self, step: Step) -> Applied:
        """Advance, write and park in one transaction.

        Two round trips: up to the progress that is locked, and from there to the commit.
        """
        with (
            self._generation.errors() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            applied = self._apply(connection, step)
            if not isinstance(applied, Written):
                raise psycopg.Rollback
        return applied

    def close(self) -> None:
        """Close the connection."""
        self._generation.close()

    def _apply(self, connection: Connection[Any], step: Step) -> Applied:
        # The end of the inner block waits: nothing is written unless the progress is ours.
        with connection.pipeline():
            advanced = self._generation.advance(connection, step)
        if advanced is not None and advanced.rowcount != len(step.after):
            return Overtaken()
        if step.facts:
            self._projection.write(connection, self._table, step.facts)
        self._generation.park_records(connection, step)
        self._generation.tell(connection, step)
        return Written(len(step.facts), 0)


def create_statements(projection: SqlProjection, store: GenerationStore) -> list[sql.Composed]:
    """The statements that create the table and its indexes where they are missing."""
    name = store.generation.table
    table = sql.Identifier(store.schema, name)
    indexes = [
        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
            sql.Identifier(checked_name(f"{name}_i{number}")), table, sql.SQL(columns)
        )
        for number, columns in enumerate(projection.indexes, start=1)
    ]
    columns = sql.SQL(projection.columns)
    return [sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(table, columns), *indexes]
