"""Everything that is parked, of all generations: what is due, what is claimed, how much there is.

A claim is a lease: the key is due again when it has run out, so a process that dies in a retry
leaves nothing behind. Whoever claims locks for a moment only and skips what others lock.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from tidelog.engine.heeded import Heeded
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import Partition
from tidelog.postgres.connection import Reconnecting
from tidelog.postgres.tables import Generation

CLAIM_S = 60.0
"""How long a claimed key is left to whoever claimed it, in seconds."""

CLAIMED_MAX = 20
"""How many keys are claimed at once."""

REVIEWED_RECORDS_MAX = 500
"""How many parked records are looked at again at once."""


class Parked(NamedTuple):
    """What is parked of one projection, over its live generations of one version."""

    projection: str
    version: int
    keys: int
    waiting: int
    attempts_max: int
    for_a_person: int
    oldest: datetime


class StrayRecord(NamedTuple):
    """A record that was not ours when it was parked, behind the event of sequence `after`."""

    partition: Partition
    topic_id: str
    after: int
    record: StoredRecord


class ParkedBoard:
    """The parked keys and records of a schema. One thread uses it."""

    def __init__(self, *, dsn: str, schema: str) -> None:
        self._schema = schema
        self._connection = Reconnecting(
            dsn,
            name="tidelog-parked",
            options="-c lock_timeout=5000 -c statement_timeout=30000",
            trouble="PostgreSQL cannot tell what is parked",
        )
        self._there = False

    def wake(self, projections: Iterable[tuple[str, int]]) -> int:
        """Make every parked key of these projections and versions due; how many there are."""
        return self._execute(_WAKE_ALL, _columns(projections))

    def heeded(self, projections: Iterable[tuple[str, int]]) -> dict[Generation, frozenset[Heeded]]:
        """What the partitions of each live generation have heeded of people's decisions."""
        found = self._query(_HEEDED, _columns(projections))
        return {Generation(*each): frozenset(heeded) for *each, heeded in found}

    def needs_rebuild(self, generation: Generation, reason: str) -> None:
        """Note that only a rebuild makes the generation what it should be."""
        self._execute(_NEEDS_REBUILD, (reason, *generation))

    def release(self, generation: Generation, key: str) -> None:
        """Give a claimed key back: it is due at once."""
        self._execute(_RELEASE, (*generation, key))

    def wake_key(self, projection: str, key: str) -> int:
        """Make one key due, in every live generation; 0 where it is not parked."""
        return self._execute(_WAKE_KEY, (projection, key))

    def claim(self, projections: Iterable[tuple[str, int]]) -> list[tuple[Generation, str]]:
        """Keys that are due, oldest first; nobody else is given them until the claim runs out."""
        values = (*_columns(projections), CLAIMED_MAX, CLAIM_S)
        return [(Generation(*each), key) for *each, key in self._query(_CLAIM, values)]

    def summary(self, projections: Iterable[tuple[str, int]]) -> list[Parked]:
        """How much is parked of each projection; those with nothing are left out."""
        return [Parked(*each) for each in self._query(_SUMMARY, _columns(projections))]

    def strays(self, contexts: Sequence[str], after: tuple[str, int, int]) -> list[StrayRecord]:
        """Parked records that are no forks, behind a place, in order of place."""
        found = self._query(_STRAYS, (list(contexts), *after, REVIEWED_RECORDS_MAX))
        return [_stray(each) for each in found]

    def forget(self, stray: StrayRecord) -> None:
        """The record is an event after all: it is parked no more."""
        values = (*stray.partition, stray.topic_id, stray.record.offset)
        self._execute(_FORGET, values)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # --- the connection ---------------------------------------------------------------------

    def _execute(self, text: LiteralString, values: Sequence[Any]) -> int:
        with self._connection.use() as connection:
            if not self._has_tables(connection):
                return 0
            return connection.execute(self._sql(text), values).rowcount

    def _query(self, text: LiteralString, values: Sequence[Any]) -> list[Any]:
        with self._connection.use() as connection:
            if not self._has_tables(connection):
                return []
            return connection.execute(self._sql(text), values).fetchall()

    def _has_tables(self, connection: Connection[Any]) -> bool:
        """Whether any projector has made the tables yet: before that nothing is parked."""
        if not self._there:
            name = sql.Identifier(self._schema, "parked_keys").as_string(connection)
            found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
            self._there = found == (True,)
        return self._there

    def _sql(self, text: LiteralString) -> sql.Composed:
        return sql.SQL(text).format(
            keys=sql.Identifier(self._schema, "parked_keys"),
            positions=sql.Identifier(self._schema, "projection_positions"),
            projections=sql.Identifier(self._schema, "projections"),
            records=sql.Identifier(self._schema, "parked_records"),
        )


def _columns(projections: Iterable[tuple[str, int]]) -> tuple[list[str], list[int]]:
    several = list(projections)
    return [name for name, _ in several], [version for _, version in several]


def _stray(found: Sequence[Any]) -> StrayRecord:
    context, number, topic_id, offset, sequence, key, value, headers = found
    decoded = [(name, None if text is None else base64.b64decode(text)) for name, text in headers]
    record = StoredRecord(offset, key, value, decoded)
    return StrayRecord(Partition(context, number), topic_id, sequence, record)


_MINE: LiteralString = (
    "(k.projection, k.version) IN (SELECT * FROM unnest(%s::text[], %s::int[])) "
    "AND EXISTS (SELECT FROM {projections} AS p WHERE p.name = k.projection "
    "AND p.version = k.version AND p.generation = k.generation AND p.state = 'live')"
)

_WAKE_ALL: LiteralString = "UPDATE {keys} AS k SET next_attempt_at = now() WHERE " + _MINE

_HEEDED: LiteralString = (
    "SELECT k.projection, k.version, k.generation, array_agg(DISTINCT k.heeded) "
    "FROM {positions} AS k WHERE " + _MINE + " GROUP BY k.projection, k.version, k.generation"
)

_NEEDS_REBUILD: LiteralString = (
    "UPDATE {projections} SET needs_rebuild = %s WHERE name = %s AND version = %s "
    "AND generation = %s"
)

_RELEASE: LiteralString = (
    "UPDATE {keys} SET next_attempt_at = now() WHERE projection = %s AND version = %s "
    "AND generation = %s AND key = %s"
)

_WAKE_KEY: LiteralString = (
    "UPDATE {keys} AS k SET next_attempt_at = now() WHERE k.projection = %s AND k.key = %s"
)

_CLAIM: LiteralString = (
    "WITH due AS (SELECT k.projection, k.version, k.generation, k.key FROM {keys} AS k WHERE "
    + _MINE
    + " AND k.next_attempt_at <= now() ORDER BY k.next_attempt_at LIMIT %s "
    "FOR UPDATE OF k SKIP LOCKED) "
    "UPDATE {keys} AS c SET next_attempt_at = now() + make_interval(secs => %s) FROM due "
    "WHERE c.projection = due.projection AND c.version = due.version "
    "AND c.generation = due.generation AND c.key = due.key "
    "RETURNING c.projection, c.version, c.generation, c.key"
)

_SUMMARY: LiteralString = (
    "SELECT k.projection, k.version, count(*), sum(k.waiting)::bigint, max(k.attempts), "
    "count(*) FILTER (WHERE k.next_attempt_at IS NULL), min(k.parked_at) "
    "FROM {keys} AS k WHERE " + _MINE + " GROUP BY k.projection, k.version"
)

_STRAYS: LiteralString = (
    'SELECT context, partition, topic_id, "offset", sequence, key, value, headers FROM {records} '
    'WHERE NOT fork AND context = ANY(%s) AND (context, partition, "offset") > (%s, %s, %s) '
    'ORDER BY context, partition, "offset" LIMIT %s'
)

_FORGET: LiteralString = (
    "DELETE FROM {records} WHERE context = %s AND partition = %s AND topic_id = %s "
    'AND "offset" = %s AND NOT fork'
)
