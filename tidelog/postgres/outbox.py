"""The outbox as the relay sees it: what is to be sent, what was sent, what cannot be sent now.

A part of it belongs to one process at a time, which holds its advisory lock. A command that cannot
be sent is parked: it and all behind it to the same aggregate wait, in order, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from tidelog.parking import PAUSES_S
from tidelog.postgres.connection import Reconnecting
from tidelog.postgres.saga_store import ERROR_CHARACTERS_MAX, OUTBOX_CHANNEL
from tidelog.postgres.saga_tables import BUCKETS

_TAKE: LiteralString = """
SELECT o.id, o.context, o.subject, o.command_id, o.command_type, o.data::text, o.causation_id,
    o.correlation_id, o.traceparent, extract(epoch FROM now() - o.created_at)::float8
FROM {outbox} AS o WHERE o.bucket = ANY(%s::int[]) AND NOT EXISTS (
    SELECT FROM {parked} AS p WHERE p.context = o.context AND p.subject = o.subject
        AND p.next_attempt_at > now()
) ORDER BY o.id LIMIT %s
"""

# What was parked and is sent now is parked no more.
_SENT: LiteralString = """
WITH sent AS (DELETE FROM {outbox} WHERE id = ANY(%s::bigint[]) RETURNING id, context, subject)
DELETE FROM {parked} AS p USING sent
WHERE p.context = sent.context AND p.subject = sent.subject AND p.outbox_id = sent.id
"""

# After the last pause it goes on at that one: what it waits for is a version that can send it.
_PARK: LiteralString = """
INSERT INTO {parked} AS p (context, subject, outbox_id, command_type, attempts, error_type, error,
    next_attempt_at)
VALUES (%s, %s, %s, %s, 1, %s, %s, now() + make_interval(secs => (%s::float8[])[1]))
ON CONFLICT (context, subject) DO UPDATE SET outbox_id = excluded.outbox_id,
    command_type = excluded.command_type, error_type = excluded.error_type,
    error = excluded.error, attempts = p.attempts + 1, attempted_at = now(),
    next_attempt_at = now() + make_interval(secs => (%s::float8[])[least(p.attempts + 1, %s)])
"""

_WAKE: LiteralString = "UPDATE {parked} SET next_attempt_at = now()"

_DEPTH: LiteralString = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8,
    (SELECT count(*) FROM {parked})
FROM {outbox}
"""

_LOCK: LiteralString = """
SELECT b FROM unnest(%s::int[]) AS b
WHERE pg_try_advisory_lock(hashtextextended('tidelog-outbox:' || %s || ':' || b, 0))
"""


class OutboxRow(NamedTuple):
    """A command that is to be sent."""

    id: int
    context: str
    subject: str
    command_id: str
    command_type: str
    data: str
    causation_id: str
    correlation_id: str
    traceparent: str
    age_s: float


class Depth(NamedTuple):
    """How many commands wait, how old the oldest is, and to how many aggregates they are parked."""

    commands: int
    age_s: float
    parked: int


class Outbox:
    """The parts of the outbox that no other process relays. One thread uses it.

    Whatever fails is Unavailable, and lets go of all parts: another process may have them then.
    """

    def __init__(self, *, dsn: str, schema: str) -> None:
        self._schema = schema
        names = {
            "outbox": sql.Identifier(schema, "saga_outbox"),
            "parked": sql.Identifier(schema, "saga_outbox_parked"),
        }
        self._take, self._sent, self._park, self._wake, self._depth = (
            sql.SQL(text).format(**names) for text in (_TAKE, _SENT, _PARK, _WAKE, _DEPTH)
        )
        self._buckets: list[int] = []
        self._connection = Reconnecting(
            dsn,
            name="tidelog-outbox-relay",
            options="-c statement_timeout=10000",
            begin=self._begin,
        )

    @property
    def buckets(self) -> int:
        """How many parts are ours."""
        return len(self._buckets)

    def take(self, count_max: int) -> list[OutboxRow]:
        """What may be sent now of our parts, in order; it stays until it is told to be sent."""
        with self._connection.use() as connection:
            self._lock_free_ones(connection)
            if not self._buckets:
                return []
            found = connection.execute(self._take, (self._buckets, count_max))
            return [OutboxRow._make(row) for row in found.fetchall()]

    def sent(self, rows: Sequence[OutboxRow]) -> None:
        """The broker has these."""
        with self._connection.use() as connection:
            connection.execute(self._sent, ([row.id for row in rows],))

    def park(self, row: OutboxRow, error: Exception) -> None:
        """This one cannot be sent now, nor what is behind it to the same aggregate."""
        text = str(error).replace("\0", "")[:ERROR_CHARACTERS_MAX]
        what = (row.context, row.subject, row.id, row.command_type, type(error).__name__, text)
        pauses = list(PAUSES_S)
        with self._connection.use() as connection:
            connection.execute(self._park, (*what, pauses, pauses, len(pauses)))

    def wake(self) -> None:
        """Everything that is parked may be tried now."""
        with self._connection.use() as connection:
            connection.execute(self._wake)

    def wait(self, timeout_s: float) -> None:
        """Until something is put into the outbox, or the time is over."""
        with self._connection.use() as connection:
            for _ in connection.notifies(timeout=timeout_s, stop_after=1):
                pass

    def depth(self) -> Depth:
        """How much there is."""
        with self._connection.use() as connection:
            row = connection.execute(self._depth).fetchone()
        assert row is not None, "an aggregate gives one row"
        return Depth._make(row)

    def close(self) -> None:
        """Let go of all parts."""
        self._connection.close()
        self._buckets = []

    def _begin(self, connection: Connection[Any]) -> None:
        """Locks end with their connection: a new one has none yet."""
        self._buckets = []
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(OUTBOX_CHANNEL)))

    def _lock_free_ones(self, connection: Connection[Any]) -> None:
        if len(self._buckets) < BUCKETS:
            free = [bucket for bucket in range(BUCKETS) if bucket not in self._buckets]
            found = connection.execute(_LOCK, (free, self._schema))
            self._buckets += [bucket for (bucket,) in found]
