"""Letting another generation serve: one transaction, and no reader ever sees a position go back.

The view's lock comes first and is waited for briefly, so that a long query holds up nobody behind
us. Then the generation that serves stands still while the other, which goes on, passes it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from psycopg import Connection, sql

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.postgres.generations import positions, registered, serving
from tidelog.postgres.notices import CHANNEL, switched_notice
from tidelog.postgres.tables import Generation

LOCK_TIMEOUT_MS = 200
"""How long readers may queue behind our wait for the view, in milliseconds."""
PASS_TIMEOUT_S = 1.0
"""How long the view may be held until the other generation has passed, in seconds."""
PASS_POLL_S = 0.01


class _NotYet(Exception):
    """The transaction is rolled back."""


def switch(connection: Connection[Any], schema: str, to: Generation) -> str | None:
    """Let `to` serve; None once it does, else why not yet: then nothing has changed."""
    try:
        with connection.transaction():
            _switch(connection, schema, to)
    except psycopg.errors.LockNotAvailable:
        return "queries hold the view"
    except psycopg.errors.DeadlockDetected:
        return "writers and the switch waited for each other"
    except _NotYet as reason:
        return str(reason)
    return None


def _switch(connection: Connection[Any], schema: str, to: Generation) -> None:
    connection.execute(
        sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{LOCK_TIMEOUT_MS}ms"))
    )
    show(connection, schema, to)
    now_serving = serving(registered(connection, schema, to.projection))
    if now_serving is not None and now_serving.generation != to:
        _pass(connection, schema, now_serving.generation, to)
        _set_serving(connection, schema, now_serving.generation, False)
    _set_serving(connection, schema, to, True)
    connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, switched_notice(schema, to)))


def show(connection: Connection[Any], schema: str, generation: Generation) -> None:
    """Have the view show this generation.

    Where the columns are the same the view stays what it is to others. Where they are not it is
    made anew, with the owner and the rights that it had, except those on a column that is gone.
    """
    view = sql.Identifier(schema, generation.projection)
    table = sql.Identifier(schema, generation.table)
    shown = _columns(connection, schema, generation.projection)
    columns = _columns(connection, schema, generation.table)
    other = bool(shown) and shown != columns
    given: list[sql.Composed] = []
    if other:
        given = _rights(connection, schema, generation.projection, [name for name, _ in columns])
        connection.execute(sql.SQL("DROP VIEW {}").format(view))
    connection.execute(sql.SQL("CREATE OR REPLACE VIEW {} AS SELECT * FROM {}").format(view, table))
    for statement in given:
        connection.execute(statement)


def _rights(
    connection: Connection[Any], schema: str, view: str, columns: Collection[str]
) -> list[sql.Composed]:
    """The statements that give the view's owner and its rights again, once it is made anew."""
    name = sql.Identifier(schema, view)
    found = connection.execute(_RIGHTS, (schema, view)).fetchall()
    statements = []
    for column, grantee, privilege, grantable in found:
        if column is not None and column not in columns:
            continue
        what: sql.Composable = _PRIVILEGES[privilege]
        if column is not None:
            what = sql.SQL("{} ({})").format(what, sql.Identifier(column))
        to: sql.Composable = sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee)
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        statements.append(sql.SQL("GRANT {} ON {} TO {}{}").format(what, name, to, option))
    owner = connection.execute(_OWNER, (schema, view)).fetchone()
    if owner is not None:
        statements.append(
            sql.SQL("ALTER VIEW {} OWNER TO {}").format(name, sql.Identifier(owner[0]))
        )
    return statements


_PRIVILEGES = {
    name: sql.SQL(name)
    for name in (
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "MAINTAIN",
    )
}

# The owner has all rights anyway; what it has given to itself is not among these.
_RIGHTS = (
    "SELECT g.name, r.rolname, x.privilege_type, x.is_grantable FROM pg_class AS c "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN LATERAL ("
    "SELECT NULL::text AS name, c.relacl AS acl UNION ALL SELECT a.attname::text, a.attacl "
    "FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    ") AS g CROSS JOIN LATERAL aclexplode(g.acl) AS x "
    "LEFT JOIN pg_roles AS r ON r.oid = x.grantee "
    "WHERE n.nspname = %s AND c.relname = %s AND x.grantee <> c.relowner ORDER BY 1, 2, 3"
)
_OWNER = (
    "SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %s AND c.relname = %s AND pg_get_userbyid(c.relowner) <> current_user"
)


def _pass(connection: Connection[Any], schema: str, old: Generation, new: Generation) -> None:
    """Wait until the new one has passed the old one, which stands still; then stop it, too."""
    stands = positions(connection, schema, old, locked=True)
    deadline = time.monotonic() + PASS_TIMEOUT_S
    while behind(positions(connection, schema, new), stands):
        if time.monotonic() > deadline:
            raise _NotYet(f"{new.table} is behind {old.table}")
        time.sleep(PASS_POLL_S)
    lacking = behind(positions(connection, schema, new, locked=True), stands)
    assert not lacking, f"{new.table} went back while it was watched: {lacking}"


def behind(
    new: Mapping[Partition, Progress], old: Mapping[Partition, Progress]
) -> dict[Partition, int]:
    """How many events the new one lacks of what the old one has, where it lacks any.

    Partitions that the new one does not read do not matter to it.
    """
    return {
        at: progress.sequence - new[at].sequence
        for at, progress in old.items()
        if at in new and new[at].sequence < progress.sequence
    }


def _set_serving(
    connection: Connection[Any], schema: str, generation: Generation, serves: bool
) -> None:
    connection.execute(
        sql.SQL(
            "UPDATE {} SET serving = %s, served_until = CASE WHEN %s THEN NULL ELSE now() END "
            "WHERE name = %s AND version = %s AND generation = %s"
        ).format(sql.Identifier(schema, "projections")),
        (serves, serves, *generation),
    )


def _columns(connection: Connection[Any], schema: str, relation: str) -> list[tuple[str, int]]:
    """Names and types of a table's or view's columns; none where it is not there."""
    found = connection.execute(
        "SELECT a.attname, a.atttypid::bigint FROM pg_attribute AS a "
        "JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped "
        "ORDER BY a.attnum",
        (schema, relation),
    )
    return [(name, kind) for name, kind in found]
