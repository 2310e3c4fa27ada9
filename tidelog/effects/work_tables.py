"""The table of the work that is to be done outside, and the statements on it."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from tidelog.postgres.generation_store import rendered
from tidelog.postgres.saga_statements import SagaStatements

_TABLES: tuple[LiteralString, ...] = (
    """
CREATE TABLE IF NOT EXISTS {schema}.effect_work (
    -- The effect and the message that asked for it: one event is one piece of work.
    id text PRIMARY KEY,
    effect text NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL,
    message_id text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    -- waiting, or parked: its tries are used up.
    status text NOT NULL DEFAULT 'waiting',
    attempts int NOT NULL DEFAULT 0,
    -- From when on it may be taken; while it is done, the end of the lease. Null: by a person only.
    next_attempt_at timestamptz DEFAULT now(),
    lease text NOT NULL DEFAULT '',
    memo text NOT NULL DEFAULT '',
    error text NOT NULL DEFAULT '',
    since timestamptz NOT NULL DEFAULT now()
)
""",
    """
CREATE INDEX IF NOT EXISTS effect_work_due ON {schema}.effect_work (effect, next_attempt_at)
""",
    """
CREATE INDEX IF NOT EXISTS effect_work_subject ON {schema}.effect_work (subject)
""",
    """
CREATE INDEX IF NOT EXISTS effect_work_correlation ON {schema}.effect_work (correlation_id)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.effect_ended (
    -- Work that is done, for whoever asks later what became of it.
    id text PRIMARY KEY,
    effect text NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL,
    correlation_id text NOT NULL,
    attempts int NOT NULL,
    since timestamptz NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT now()
)
""",
    """
CREATE INDEX IF NOT EXISTS effect_ended_correlation ON {schema}.effect_ended (correlation_id)
""",
    """
CREATE INDEX IF NOT EXISTS effect_ended_at ON {schema}.effect_ended (ended_at)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.effect_cursors (
    name text PRIMARY KEY,
    place bigint NOT NULL
)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.effect_references (
    name text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (name, key)
)
""",
)


_FORGET: LiteralString = """
DELETE FROM {} WHERE id IN (SELECT id FROM {}
  WHERE ended_at < now() - make_interval(days => %s) ORDER BY ended_at LIMIT %s
  FOR UPDATE SKIP LOCKED)
"""


class WorkStatements:
    """What is done to work, rendered once. It needs the tables of the sagas: the outbox."""

    def __init__(self, schema: str) -> None:
        work = sql.Identifier(schema, "effect_work")
        ended = sql.Identifier(schema, "effect_ended")
        cursors = sql.Identifier(schema, "effect_cursors")
        references = sql.Identifier(schema, "effect_references")
        sagas = SagaStatements(schema)
        own = [sql.SQL(text).format(schema=sql.Identifier(schema)) for text in _TABLES]
        self.create = [*sagas.create, *own]
        self.request = sagas.request
        self.add = rendered(
            "INSERT INTO {} (id, effect, subject, data, message_id, correlation_id, traceparent) "
            "SELECT id, effect, subject, data::jsonb, message, correlation, trace "
            "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], "
            "%s::text[]) AS v(id, effect, subject, data, message, correlation, trace) "
            "ON CONFLICT DO NOTHING",
            work,
        )
        # An attempt counts from its beginning, so that one which kills its process counts as well.
        self.claim = rendered(
            "UPDATE {} AS w SET attempts = w.attempts + 1, lease = %s, "
            "next_attempt_at = now() + make_interval(secs => %s) "
            "FROM (SELECT id FROM {} WHERE effect = ANY(%s::text[]) AND next_attempt_at <= now() "
            "ORDER BY next_attempt_at LIMIT %s FOR UPDATE SKIP LOCKED) AS due "
            "WHERE w.id = due.id RETURNING w.id, w.effect, w.subject, w.data::text, w.message_id, "
            "w.correlation_id, w.traceparent, w.attempts, w.memo, "
            "extract(epoch FROM now() - w.since)::float8",
            work,
            work,
        )
        self.finish = rendered(
            "WITH ended AS (DELETE FROM {} WHERE id = %s AND lease = %s RETURNING *) "
            "INSERT INTO {} (id, effect, subject, data, correlation_id, attempts, since) "
            "SELECT id, effect, subject, data, correlation_id, attempts, since FROM ended "
            "ON CONFLICT (id) DO UPDATE SET attempts = excluded.attempts, ended_at = now()",
            work,
            ended,
        )
        self.forget = rendered(_FORGET, ended, ended)
        self.remember = rendered("UPDATE {} SET memo = %s WHERE id = %s AND lease = %s", work)
        self.put_back = rendered(
            "UPDATE {} SET status = %s, error = %s, attempts = attempts - %s, lease = '', "
            "next_attempt_at = now() + make_interval(secs => %s) WHERE id = %s AND lease = %s",
            work,
        )
        self.retry = rendered(
            "UPDATE {} SET status = 'waiting', attempts = 0, since = now(), "
            "next_attempt_at = now() WHERE status = 'parked' AND (id = %s OR %s = '')",
            work,
        )
        self.depth = rendered(
            "SELECT effect, status, count(*), extract(epoch FROM now() - min(since))::float8 "
            "FROM {} GROUP BY effect, status",
            work,
        )
        self.keep = rendered(
            "INSERT INTO {} SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]) "
            "ON CONFLICT DO NOTHING",
            references,
        )
        self.known = rendered("SELECT value FROM {} WHERE name = %s AND key = %s", references)
        self.make_cursor = rendered("INSERT INTO {} VALUES (%s, 0) ON CONFLICT DO NOTHING", cursors)
        self.cursor = rendered(
            "SELECT place FROM {} WHERE name = %s FOR UPDATE SKIP LOCKED", cursors
        )
        self.move_cursor = rendered("UPDATE {} SET place = %s WHERE name = %s", cursors)


class DecidedWorkStatements:
    """What a person's decisions do to work, rendered once."""

    def __init__(self, schema: str) -> None:
        work = sql.Identifier(schema, "effect_work")
        self.retry_of = rendered(
            "UPDATE {} SET status = 'waiting', attempts = 0, since = now(), "
            "next_attempt_at = now() WHERE status = 'parked' AND effect = %s AND subject = %s",
            work,
        )
        self.open_of = rendered(
            "SELECT id, effect, lease <> '' AND next_attempt_at > now() FROM {} "
            "WHERE effect = ANY(%s::text[]) AND correlation_id = %s AND data ->> %s = %s "
            "ORDER BY id FOR UPDATE",
            work,
        )
        self.drop = rendered("DELETE FROM {} WHERE id = ANY(%s::text[])", work)
