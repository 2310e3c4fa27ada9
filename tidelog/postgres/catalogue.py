"""Reads which generations of read models are registered, for whoever feeds them."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from tidelog.postgres.connection import Reconnecting
from tidelog.postgres.generations import Registered, registered


class Catalogue:
    """The table `projections`, read only. One thread uses it; it reconnects by itself."""

    def __init__(self, *, dsn: str, schema: str) -> None:
        self._schema = schema
        self._connection = Reconnecting(
            dsn,
            # Tells those who measure the lag that a projector process is alive.
            name=watcher_name(schema),
            options="-c statement_timeout=5000",
            trouble="PostgreSQL does not tell the generations",
        )

    def look(self, names: Iterable[str]) -> dict[str, list[Registered]]:
        """The generations of each of these; none before the first projector made the tables.

        Raises Unavailable where PostgreSQL does not answer.
        """
        with self._connection.use() as connection:
            try:
                return {name: registered(connection, self._schema, name) for name in names}
            except psycopg.errors.UndefinedTable:
                return {name: [] for name in names}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def watcher_name(schema: str) -> str:
    """The name of the connection by which a projector process watches the generations."""
    return f"tidelog-catalogue-{schema}"[:63]
