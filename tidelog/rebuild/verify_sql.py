"""Proving a projection that writes its own SQL: written again beside its table, and compared.

All of it is one transaction that is rolled back: the copy is never seen by anybody else, and the
table is compared as it was in the snapshot that the positions come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.tables import Generation
from tidelog.rebuild.loading import read_facts
from tidelog.rebuild.site import Watch
from tidelog.rebuild.workers import World

COPY_NAME = "tidelog_verify_copy"


def compare_sql(
    connection: Connection[Any],
    world: World,
    projection: SqlProjection,
    generation: Generation,
    targets: Mapping[Partition, int],
    watch: Watch,
) -> tuple[int, int, dict[str, Any] | None]:
    """Rows of the table, how many differ, and the first that does. Rolls back at the end."""
    copy = sql.Identifier("pg_temp", COPY_NAME)
    table = sql.Identifier(world.site.schema, generation.table)
    connection.execute(
        sql.SQL("CREATE TEMP TABLE {} ({})").format(
            sql.Identifier(COPY_NAME), sql.SQL(projection.columns)
        )
    )
    progress = dict.fromkeys(targets, Progress())

    def advance(events: int) -> bool:
        watch.advance(events)
        return False

    for _, reading in read_facts(projection, world, progress, targets, advance):
        if reading.facts:
            projection.write(connection, copy, reading.facts)
    lacking = _except(connection, copy, table)
    too_many = _except(connection, table, copy)
    count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert count is not None, "a count gives a row in any case"
    differences = max(len(lacking), len(too_many))
    first: dict[str, Any] | None = None
    if differences:
        first = {
            "key": None,
            "position": None,
            "type": None,
            "reason": "the log, written again, gives other rows",
            "columns": [],
            "expected": lacking[0] if lacking else None,
            "found": too_many[0] if too_many else None,
        }
    connection.execute("ROLLBACK")
    return count[0], differences, first


def _except(
    connection: Connection[Any], one: sql.Identifier, other: sql.Identifier
) -> list[dict[str, Any]]:
    """The rows of one table that the other has not, as JSON; at most a hundred."""
    statement = sql.SQL(
        "SELECT to_jsonb(d) AS row FROM (SELECT * FROM {} EXCEPT ALL SELECT * FROM {} "
        "ORDER BY 1 LIMIT 100) AS d"
    ).format(one, other)
    with connection.cursor(row_factory=dict_row) as cursor:
        return [each["row"] for each in cursor.execute(statement)]
