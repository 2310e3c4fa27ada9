"""Everything that is parked, as one list: rows of read models, records, commands.

The select is shared by the query service and the command line, so that both show the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

KINDS = ("projection", "saga", "effect", "command")
"""What may be parked. Sagas and effects park by the key of their saga."""

TABLES = (
    "parked_keys",
    "parked_records",
    "parked_commands",
    "saga_outbox_parked",
    "saga_parked",
    "effect_work",
)
"""Where it lies; each is made when its service first needs it."""


class Item(NamedTuple):
    """A column of the list and its type in PostgreSQL."""

    name: str
    kind: str


COLUMNS = (
    Item("id", "text"),
    Item("kind", "text"),
    # Of what has no row: a record that is not ours, a command that could not be decided.
    Item("projection", "text"),
    Item("version", "int"),
    Item("generation", "int"),
    Item("serving", "boolean"),
    Item("key", "text"),
    # The event that failed; of a record that is not ours, the event before it.
    Item("position", "text"),
    Item("offset", "bigint"),
    Item("event_type", "text"),
    Item("aggregate_id", "text"),
    Item("error_type", "text"),
    Item("error", "text"),
    Item("attempts", "int"),
    Item("waiting", "bigint"),
    Item("parked_at", "timestamptz"),
    Item("attempted_at", "timestamptz"),
    # Empty where it waits for a person.
    Item("next_attempt_at", "timestamptz"),
    # What a decision about it is addressed to.
    Item("target", "text"),
)

NAMES = tuple(column.name for column in COLUMNS)


def parked_select(schema: str, tables: Collection[str]) -> str:
    """A SELECT of COLUMNS over those of TABLES that are there."""
    # First, so that the columns have their names whichever tables there are.
    nothing = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in COLUMNS)
    parts = [_PARTS[name].format(s=f'"{schema}"') for name in TABLES if name in tables]
    return " UNION ALL ".join([f"SELECT {nothing} WHERE false", *parts])


def known_tables(schema: str) -> str:
    """A SELECT of the names of those of TABLES that are there."""
    names = ", ".join(f"('{name}')" for name in TABLES)
    found = f"""to_regclass('"{schema}".' || t.name) IS NOT NULL"""
    return f"SELECT t.name FROM (VALUES {names}) AS t(name) WHERE {found}"


_KEYS = """
SELECT md5(concat_ws('~', k.projection, k.version, k.generation, k.key)) AS "id",
  'projection' AS "kind", k.projection AS "projection", k.version AS "version",
  k.generation AS "generation", coalesce(p.serving, false) AS "serving", k.key AS "key",
  concat_ws(':', k.context, k.partition, k.sequence) AS "position", k."offset" AS "offset",
  k.event_type AS "event_type", k.aggregate_id AS "aggregate_id", k.error_type AS "error_type",
  k.error AS "error", k.attempts AS "attempts", k.waiting AS "waiting",
  k.parked_at AS "parked_at", k.attempted_at AS "attempted_at",
  k.next_attempt_at AS "next_attempt_at",
  concat_ws('~', k.projection, k.version, k.context, k.partition, k.sequence) AS "target"
FROM {s}.parked_keys AS k LEFT JOIN {s}.projections AS p ON p.name = k.projection
  AND p.version = k.version AND p.generation = k.generation
"""

_RECORDS = """
SELECT md5(concat_ws('~', r.context, r.partition, r.topic_id, r."offset")),
  'projection', NULL::text, NULL::int, NULL::int, NULL::boolean, NULL::text,
  concat_ws(':', r.context, r.partition, r.sequence), r."offset",
  NULL::text, NULL::text, CASE WHEN r.fork THEN 'LogFork' ELSE 'CodecError' END, r.reason,
  1, 0::bigint, r.at, r.at, NULL::timestamptz, NULL::text
FROM {s}.parked_records AS r
"""

_COMMANDS = """
SELECT md5(concat_ws('~', 'command', c.context, c.partition, c."offset")),
  'command', NULL::text, NULL::int, NULL::int, NULL::boolean,
  encode(c.key, 'escape'), concat_ws(':', c.context, c.partition, '0'), c."offset",
  NULL::text, NULL::text, 'CommandFault', c.reason,
  1, 0::bigint, c.parked_at, c.parked_at, NULL::timestamptz, NULL::text
FROM {s}.parked_commands AS c
"""

# What a saga or an effect asks for and cannot be sent; the commands behind it wait.
_UNSENT = """
SELECT md5(concat_ws('~', 'unsent', u.context, u.subject)),
  'command', NULL::text, NULL::int, NULL::int, NULL::boolean,
  u.subject, NULL::text, NULL::bigint,
  u.command_type, u.subject, u.error_type, u.error, u.attempts,
  (SELECT count(*) FROM {s}.saga_outbox AS o WHERE o.context = u.context
    AND o.subject = u.subject AND o.id > u.outbox_id),
  u.parked_at, u.attempted_at, u.next_attempt_at, NULL::text
FROM {s}.saga_outbox_parked AS u
"""

# What waits is held, the event that failed as well.
_SAGAS = """
SELECT md5(concat_ws('~', 'saga', s.saga, s.key)),
  'saga', s.saga, NULL::int, NULL::int, NULL::boolean, s.key, s.position, NULL::bigint,
  s.event_type, NULL::text, s.error_type, s.error, s.attempts,
  (SELECT count(*) FROM {s}.saga_held AS h WHERE h.saga = s.saga AND h.key = s.key),
  s.parked_at, s.parked_at, s.next_attempt_at, NULL::text
FROM {s}.saga_parked AS s
"""

_EFFECTS = """
SELECT md5(concat_ws('~', 'effect', w.id)),
  'effect', w.effect, NULL::int, NULL::int, NULL::boolean, w.subject, NULL::text, NULL::bigint,
  NULL::text, w.subject, 'WorkParked', w.error, w.attempts, 0::bigint,
  w.since, w.since, w.next_attempt_at, w.id
FROM {s}.effect_work AS w WHERE w.status = 'parked'
"""

_PARTS = {
    "parked_keys": _KEYS,
    "parked_records": _RECORDS,
    "parked_commands": _COMMANDS,
    "saga_outbox_parked": _UNSENT,
    "saga_parked": _SAGAS,
    "effect_work": _EFFECTS,
}
