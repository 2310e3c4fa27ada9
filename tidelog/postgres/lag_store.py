"""Reads how far every generation of every read model is, in one snapshot."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import Connection, sql

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.lag import StoredGeneration, StoredPosition
from tidelog.postgres.catalogue import watcher_name
from tidelog.postgres.connection import Reconnecting

# Feeds name their connections after their table, as far as such a name may be long.
_GENERATIONS = """
SELECT p.name, p.version, p.generation, p.serving, p.state,
       (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datname = current_database()
        AND a.application_name
            = left('tidelog-' || p.name || '__v' || p.version || '_g' || p.generation, 63)),
       (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datname = current_database()
        AND a.application_name = %s),
       (SELECT count(*) FROM {parked} AS k WHERE k.projection = p.name
        AND k.version = p.version AND k.generation = p.generation),
       -- Tables of an earlier version have no such column until a projector has run.
       coalesce(to_jsonb(p) ->> 'needs_rebuild', '')
FROM {projections} AS p ORDER BY p.name, p.version, p.generation
"""
_POSITIONS = """
SELECT projection, version, generation, context, partition, sequence, "offset",
       extract(epoch FROM clock_timestamp() - advanced_at)::float8
FROM {positions}
"""


class LagStore:
    """The stored side of the lag. One thread uses it; it reconnects where its connection broke."""

    def __init__(self, *, dsn: str, schema: str) -> None:
        self._schema = schema
        self._connection = Reconnecting(
            dsn,
            name="tidelog-lag",
            options="-c statement_timeout=5000",
            trouble="PostgreSQL does not tell the positions",
        )
        names = {
            "projections": sql.Identifier(schema, "projections"),
            "positions": sql.Identifier(schema, "projection_positions"),
            "parked": sql.Identifier(schema, "parked_keys"),
        }
        self._generations = sql.SQL(_GENERATIONS).format(**names)
        self._positions = sql.SQL(_POSITIONS).format(**names)

    def generations(self) -> list[StoredGeneration]:
        """Every generation that is registered; none before any projector ran.

        Raises Unavailable where PostgreSQL does not answer.
        """
        with self._connection.use() as connection:
            try:
                with connection.transaction():
                    return self._read(connection)
            except psycopg.errors.UndefinedTable:
                return []  # no projector has made the tables yet

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _read(self, connection: Connection[Any]) -> list[StoredGeneration]:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        watcher = (watcher_name(self._schema),)
        generations = connection.execute(self._generations, watcher).fetchall()
        positions: dict[tuple[str, int, int], dict[Partition, StoredPosition]] = {}
        for (
            name,
            version,
            number,
            context,
            partition,
            sequence,
            offset,
            unmoved,
        ) in connection.execute(self._positions):
            its = positions.setdefault((name, version, number), {})
            progress = Progress(sequence, offset)
            its[Partition(context, partition)] = StoredPosition(progress, max(unmoved, 0.0))
        return [
            StoredGeneration(
                projection=name,
                version=version,
                number=number,
                serving=serving,
                state=state,
                feeders=feeders,
                watchers=watchers,
                parked=parked,
                needs_rebuild=reason,
                positions=positions.get((name, version, number), {}),
            )
            for name, version, number, serving, state, feeders, watchers, parked, reason in (
                generations
            )
        ]
