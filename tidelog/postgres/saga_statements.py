"""The statements over the tables of the sagas, rendered once."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from tidelog.postgres.generation_store import rendered
from tidelog.postgres.saga_tables import TABLES

_OWN: LiteralString = "saga = %s AND key = ANY(%s::text[])"


class SagaStatements:
    """What is done to instances, held events, parked keys and the outbox."""

    def __init__(self, schema: str) -> None:
        def own(name: str) -> sql.Identifier:
            return sql.Identifier(schema, name)

        instances, held, parked = own("saga_instances"), own("saga_held"), own("saga_parked")
        self.create = [sql.SQL(text).format(schema=sql.Identifier(schema)) for text in TABLES]
        self.make = rendered(
            "INSERT INTO {} (saga, key) SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING",
            instances,
        )
        self.lock = rendered(
            "SELECT i.key, i.instance::text, EXISTS (SELECT 1 FROM {} AS p "
            "WHERE p.saga = i.saga AND p.key = i.key) FROM {} AS i "
            "WHERE i.saga = %s AND i.key = ANY(%s::text[]) ORDER BY i.key FOR UPDATE OF i",
            parked,
            instances,
        )
        self.held = rendered(
            "SELECT key, event_type, data::text, message_id, causation_id, correlation_id, "
            "traceparent, position, recorded_at FROM {} WHERE " + _OWN + " ORDER BY id",
            held,
        )
        self.save = rendered(
            "UPDATE {} AS i SET phase = n.phase, stuck = n.stuck, next_due = n.next_due, "
            "correlation_id = n.correlation_id, started_at = n.started_at, "
            "updated_at = n.updated_at, ended_at = n.ended_at, instance = n.instance::json "
            "FROM (SELECT %s AS saga, * FROM unnest(%s::text[], %s::text[], %s::text[], "
            "%s::timestamptz[], %s::text[], %s::timestamptz[], %s::timestamptz[], "
            "%s::timestamptz[], %s::text[]) AS v(key, phase, stuck, next_due, correlation_id, "
            "started_at, updated_at, ended_at, instance)) AS n "
            "WHERE i.saga = n.saga AND i.key = n.key",
            instances,
        )
        self.release = rendered("DELETE FROM {} WHERE " + _OWN, held)
        self.hold = rendered(
            "INSERT INTO {} (saga, key, event_type, data, message_id, causation_id, "
            "correlation_id, traceparent, position, recorded_at) "
            "SELECT %s, key, type, data::jsonb, message, cause, correlation, trace, at, time "
            "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], "
            "%s::text[], %s::text[], %s::timestamptz[]) "
            "AS v(key, type, data, message, cause, correlation, trace, at, time)",
            held,
        )
        # A further failure of the same key counts up, through the pauses, to a person.
        self.park = rendered(
            "INSERT INTO {} AS p (saga, key, position, event_type, attempts, error_type, error, "
            "next_attempt_at) "
            "VALUES (%s, %s, %s, %s, 1, %s, %s, now() + make_interval(secs => (%s::float8[])[1])) "
            "ON CONFLICT (saga, key) DO UPDATE SET attempts = p.attempts + 1, "
            "position = excluded.position, event_type = excluded.event_type, "
            "error_type = excluded.error_type, error = excluded.error, "
            "next_attempt_at = now() + make_interval(secs => (%s::float8[])[p.attempts + 1])",
            parked,
        )
        self.unpark = rendered("DELETE FROM {} WHERE " + _OWN, parked)
        self.request = rendered(
            "INSERT INTO {} (bucket, context, subject, command_id, command_type, data, "
            "causation_id, correlation_id, traceparent) "
            "SELECT bucket, context, subject, id, type, data::jsonb, cause, correlation, trace "
            "FROM unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], "
            "%s::text[], %s::text[], %s::text[]) WITH ORDINALITY "
            "AS v(bucket, context, subject, id, type, data, cause, correlation, trace, place) "
            "ORDER BY place",
            own("saga_outbox"),
        )
        self.own = rendered(
            "INSERT INTO {} (saga, command_id, key) SELECT %s, * "
            "FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING",
            own("saga_commands"),
        )
