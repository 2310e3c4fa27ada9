"""Which generations of which read models there are, which of them serves, and who feeds them.

A generation is one table of a projection: `name__v{version}_g{generation}`. Readers use the view
`name`, which shows the one that serves. Every function runs in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, LiteralString, NamedTuple

from psycopg import Connection, sql

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.postgres.tables import Generation

State = Literal["loading", "live"]


class Registered(NamedTuple):
    """A generation as it is registered."""

    generation: Generation
    serving: bool
    state: State
    definition: str


def registered(connection: Connection[Any], schema: str, projection: str) -> list[Registered]:
    """Every generation of the projection, the oldest first; none before it first ran."""
    found = connection.execute(
        _sql(
            "SELECT name, version, generation, serving, state, definition FROM {} "
            "WHERE name = %s ORDER BY created_at, version, generation",
            schema,
        ),
        (projection,),
    )
    return [Registered(Generation(*row[:3]), *row[3:]) for row in found]


def register(
    connection: Connection[Any],
    schema: str,
    generation: Generation,
    *,
    serving: bool,
    state: State,
    definition: str,
) -> None:
    """Note a new generation; one that is noted already stays as it is."""
    connection.execute(
        _sql(
            "INSERT INTO {} (name, version, generation, serving, state, definition) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            schema,
        ),
        (*generation, serving, state, definition),
    )


def next_generation(connection: Connection[Any], schema: str, projection: str) -> int:
    """A number that no generation of the projection has, of whatever version."""
    known = registered(connection, schema, projection)
    return max((each.generation.generation for each in known), default=0) + 1


def serving(known: Sequence[Registered]) -> Registered | None:
    """The generation that the view shows."""
    return next((each for each in known if each.serving), None)


def served_before(connection: Connection[Any], schema: str, projection: str) -> Generation | None:
    """The generation that served last before the one that serves now."""
    found = connection.execute(
        _sql(
            "SELECT name, version, generation FROM {} WHERE name = %s AND NOT serving "
            "AND served_until IS NOT NULL ORDER BY served_until DESC LIMIT 1",
            schema,
        ),
        (projection,),
    ).fetchone()
    return Generation(*found) if found else None


def set_state(
    connection: Connection[Any], schema: str, generation: Generation, state: State
) -> None:
    """Say who fills it from now on: a rebuild, or the projectors."""
    connection.execute(
        _sql(
            "UPDATE {} SET state = %s WHERE name = %s AND version = %s AND generation = %s", schema
        ),
        (state, *generation),
    )


def set_definition(
    connection: Connection[Any], schema: str, generation: Generation, definition: str
) -> None:
    """Say which definition folds it from now on."""
    connection.execute(
        _sql(
            "UPDATE {} SET definition = %s WHERE name = %s AND version = %s AND generation = %s",
            schema,
        ),
        (definition, *generation),
    )


def positions(
    connection: Connection[Any], schema: str, generation: Generation, *, locked: bool = False
) -> dict[Partition, Progress]:
    """How far a generation is; with `locked` it stands still until the transaction ends."""
    text: LiteralString = (
        'SELECT context, partition, sequence, "offset" FROM {} '
        "WHERE projection = %s AND version = %s AND generation = %s ORDER BY context, partition"
    )
    found = connection.execute(
        sql.SQL(text + " FOR UPDATE" if locked else text).format(
            sql.Identifier(schema, "projection_positions")
        ),
        generation,
    )
    return {
        Partition(context, number): Progress(sequence, offset)
        for context, number, sequence, offset in found
    }


def drop(connection: Connection[Any], schema: str, generation: Generation) -> None:
    """Remove a generation with all that belongs to it.

    Its positions go first, as every step locks them first: whoever feeds it finds it gone.
    """
    positions(connection, schema, generation, locked=True)
    for table in ("projection_positions", "parked_keys", "rebuild_progress", "rebuilds"):
        connection.execute(
            sql.SQL(
                "DELETE FROM {} WHERE projection = %s AND version = %s AND generation = %s"
            ).format(sql.Identifier(schema, table)),
            generation,
        )
    connection.execute(
        _sql("DELETE FROM {} WHERE name = %s AND version = %s AND generation = %s", schema),
        generation,
    )
    connection.execute(
        sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, generation.table))
    )


def _sql(text: LiteralString, schema: str) -> sql.Composed:
    return sql.SQL(text).format(sql.Identifier(schema, "projections"))
