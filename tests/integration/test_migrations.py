"""Tables of an earlier version get what they lack."""

from __future__ import annotations

import psycopg

from tests.fixtures.servers import Database
from tidelog.postgres.migrations import migrate


def test_columns_that_came_later_are_added_to_the_tables_that_are_there(
    database: Database,
) -> None:
    table = f"{database.schema}.projection_positions"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        with connection.transaction():
            migrate(connection, database.schema)
        connection.execute(f"ALTER TABLE {table} DROP COLUMN advanced_at".encode())

        with connection.transaction():
            migrate(connection, database.schema)

        connection.execute(f"SELECT advanced_at FROM {table}".encode())
