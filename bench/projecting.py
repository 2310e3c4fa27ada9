"""Our projector as the measures see it: how it is started, and how far it is.

The only file here that knows either.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from bench.event_log import PARTITIONS, LogSpec, event_logs, schema_of
from bench.servers import HttpServer, running_server
from bench.stack import Stack, service_environment

SUMMARY, DETAIL = "order_summary", "order_detail"
CATCH_UP_TIMEOUT_S = 300.0
POLL_S = 0.05


def projector(stack: Stack, prefix: str, schema: str, projection: str = "") -> HttpServer:
    """The real process, not yet started: with one projection, or with all of them."""
    environment = {
        **service_environment(stack, prefix, PARTITIONS),
        "TIDELOG_POSTGRES_SCHEMA": schema,
        "TIDELOG_PROJECTIONS_ONLY": projection,
    }
    command = (sys.executable, "-m", "projectors")
    return HttpServer("projectors", command, environment, "TIDELOG_HTTP_PORT", stack.folder)


@contextmanager
def folded_log(stack: Stack, log: LogSpec, projection: str) -> Iterator[None]:
    """The log, and the projection's table with all of it; both removed in the end."""
    schema = schema_of(log.prefix)
    with event_logs(stack, log), fresh_schema(stack, schema):
        server = projector(stack, log.prefix, schema, projection)
        folded = Folded(stack, schema, projection)
        with running_server(server):
            deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
            while folded.count() < log.events:
                assert time.monotonic() < deadline, f"{projection} stands at {folded.count()}"
                time.sleep(POLL_S)
        folded.check_none_parked()
        folded.check_rows(log.orders)
        folded.close()
        yield


@contextmanager
def fresh_schema(stack: Stack, schema: str) -> Iterator[None]:
    """No tables of this schema before, none after."""
    drop_schema(stack, schema)
    try:
        yield
    finally:
        drop_schema(stack, schema)


def drop_schema(stack: Stack, schema: str) -> None:
    """Remove the schema and all that is in it."""
    with psycopg.connect(stack.postgres, autocommit=True) as connection:
        name = sql.Identifier(schema)
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))


class Folded:
    """How many events the projection has folded in, by its positions in PostgreSQL."""

    def __init__(self, stack: Stack, schema: str, projection: str) -> None:
        self._projection = projection
        self._connection = psycopg.connect(stack.postgres, autocommit=True)
        self._statement = sql.SQL(
            "SELECT coalesce(sum(sequence), 0)::bigint FROM {} WHERE projection = %s"
        ).format(sql.Identifier(schema, "projection_positions"))
        self._rows = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, projection))
        self._parked = sql.SQL(
            "SELECT (SELECT count(*) FROM {}) + (SELECT count(*) FROM {})"
        ).format(sql.Identifier(schema, "parked_records"), sql.Identifier(schema, "parked_keys"))

    def count(self) -> int:
        """The sum of the sequences that were reached; 0 before there are tables."""
        try:
            row = self._connection.execute(self._statement, (self._projection,)).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
        assert row is not None, "an aggregate has one row"
        return int(row[0])

    def check_none_parked(self) -> None:
        """An event that was parked would be counted as folded."""
        row = self._connection.execute(self._parked).fetchone()
        assert row == (0,), f"{row} events were parked"

    def check_rows(self, expected: int) -> None:
        """The read model shows so many rows, no more and no fewer."""
        row = self._connection.execute(self._rows).fetchone()
        assert row == (expected,), f"{self._projection} has {row} rows instead of {expected}"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
