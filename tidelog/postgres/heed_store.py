"""What a generation has heeded of people's decisions, in PostgreSQL, beside its positions.

One transaction locks the positions, as every step of the live fold and every retry does, parks the
rows that have to be folded again, and notes what is heeded. So whoever writes rows writes them
before it, or knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from tidelog.engine.heeding import Heeding, Place, Refold, Stand, Standing
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.notices import PARKED_CHANNEL, parked_notice
from tidelog.postgres.tables import Generation

REASON = "Decided"
"""Stands as the error of a row that is folded again because of a decision."""


class PostgresHeedStore:
    """What one generation has heeded. One thread uses it."""

    def __init__(self, generation: Generation, *, dsn: str, schema: str) -> None:
        self._name = generation
        self._generation = GenerationStore(generation, "", dsn=dsn, schema=schema)
        self._schema = schema

    def stand(self) -> Stand:
        """Where it stands."""
        with self._generation.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # A connection that is named after the table counts as a feed of it.
            connection.execute("SET application_name = 'tidelog-retrier'")
            standing = self._standing(connection)
            forks = connection.execute(self._sql(_FORKS), ([str(at) for at in standing],))
            places = frozenset((Partition(*at), offset) for *at, offset in forks)
        return Stand(standing, places)

    def heed(self, seen: Mapping[Partition, Standing], heeding: Heeding) -> list[str] | None:
        """Park what is to be folded again and note what is heeded; None where it has moved on."""
        with self._generation.transaction() as connection:
            now = self._standing(connection, lock=True)
            if not _as_seen(now, seen) or _folded(heeding.ahead, now):
                return None
            parked = [each.key for each in heeding.refolds if self._park(connection, each)]
            connection.execute(
                self._sql(_WAKE),
                (
                    [str(at) for at, _ in heeding.decided],
                    [sequence for _, sequence in heeding.decided],
                    *self._name,
                ),
            )
            connection.execute(
                self._sql(_NOTE),
                (
                    [str(at) for at in heeding.heeded],
                    list(heeding.heeded.values()),
                    *self._name,
                ),
            )
            if parked:
                notice = parked_notice(self._schema, self._name)
                connection.execute("SELECT pg_notify(%s, %s)", (PARKED_CHANNEL, notice))
        return sorted(set(parked))

    def close(self) -> None:
        """Close the connection."""
        self._generation.close()

    # --- one transaction --------------------------------------------------------------------

    def _standing(
        self, connection: Connection[Any], lock: bool = False
    ) -> dict[Partition, Standing]:
        found = connection.execute(self._sql(_STANDING_LOCKED if lock else _STANDING), self._name)
        return {
            Partition(context, number): Standing(Progress(sequence, offset), heeded)
            for context, number, sequence, offset, heeded in found
        }

    def _park(self, connection: Connection[Any], refold: Refold) -> bool:
        """Park the row to be folded again; whether it holds the event."""
        fact = refold.fact
        values = (
            *self._name,
            refold.key,
            *fact.partition,
            fact.sequence,
            fact.offset,
            fact.metadata.subject,
            type(fact.event).__name__,
            Jsonb({str(at): list(progress) for at, progress in refold.after.items()}),
            REASON,
            f"decided on when {fact.position} was in the row: it is folded again",
            str(fact.partition),
        )
        return connection.execute(self._sql(_PARK), values).fetchone() is not None

    def _sql(self, text: LiteralString) -> sql.Composed:
        return sql.SQL(text).format(
            keys=sql.Identifier(self._schema, "parked_keys"),
            positions=sql.Identifier(self._schema, "projection_positions"),
            records=sql.Identifier(self._schema, "parked_records"),
        )


def _as_seen(now: Mapping[Partition, Standing], seen: Mapping[Partition, Standing]) -> bool:
    return {at: each.heeded for at, each in now.items()} == {
        at: each.heeded for at, each in seen.items()
    }


def _folded(places: Iterable[Place], now: Mapping[Partition, Standing]) -> Sequence[Place]:
    return [place for place in places if place[1] <= now[place[0]].progress.sequence]


_OWN: LiteralString = "projection = %s AND version = %s AND generation = %s"

_STANDING: LiteralString = (
    'SELECT context, partition, sequence, "offset", heeded FROM {positions} WHERE '
    + _OWN
    + " ORDER BY context, partition"
)
_STANDING_LOCKED: LiteralString = _STANDING + " FOR UPDATE"

_FORKS: LiteralString = (
    'SELECT context, partition, "offset" FROM {records} '
    "WHERE fork AND context || ':' || partition = ANY(%s::text[])"
)

# A row that is parked before the event does not hold it: it takes the decision in on its way.
_PARK: LiteralString = (
    "INSERT INTO {keys} AS k (projection, version, generation, key, context, partition, sequence, "
    '"offset", aggregate_id, event_type, after, stale, attempts, error_type, error, '
    "next_attempt_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, true, 0, %s, %s, now()) "
    "ON CONFLICT (projection, version, generation, key) DO UPDATE SET context = excluded.context, "
    'partition = excluded.partition, sequence = excluded.sequence, "offset" = excluded."offset", '
    "aggregate_id = excluded.aggregate_id, event_type = excluded.event_type, "
    "after = excluded.after, stale = true, attempts = 0, error_type = excluded.error_type, "
    "error = excluded.error, attempted_at = now(), next_attempt_at = now() "
    "WHERE (k.after -> %s ->> 0)::bigint >= excluded.sequence RETURNING 1"
)

_WAKE: LiteralString = (
    "UPDATE {keys} AS k SET next_attempt_at = now() FROM unnest(%s::text[], %s::bigint[]) "
    "AS d(place, sequence) WHERE k.projection = %s AND k.version = %s AND k.generation = %s "
    "AND k.context || ':' || k.partition = d.place AND k.sequence = d.sequence"
)

_NOTE: LiteralString = (
    "UPDATE {positions} AS p SET heeded = d.heeded FROM unnest(%s::text[], %s::text[]) "
    "AS d(place, heeded) WHERE p.projection = %s AND p.version = %s AND p.generation = %s "
    "AND p.context || ':' || p.partition = d.place"
)
