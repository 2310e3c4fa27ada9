"""Our own tables beside the read models: which generation serves, how far each is, what is parked.

Made idempotently under an advisory lock, so that any number of processes may start at once.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection, sql
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateTable

from tidelog.postgres.tables import compiled

LOCK_NAME = "tidelog-migrations"


def own_tables(schema: str) -> tuple[Table, ...]:
    """The tables that are not read models."""
    metadata = MetaData(schema=schema)
    projections = Table(
        "projections",
        metadata,
        Column("name", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("generation", Integer, primary_key=True),
        # At most one generation of a name serves: the one that the view shows.
        Column("serving", Boolean, nullable=False),
        Column(
            "created_at",
            DateTime(timezone=True),
            nullable=False,
            server_default=func.now(),
        ),
    )
    positions = Table(
        "projection_positions",
        metadata,
        Column("projection", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("generation", Integer, primary_key=True),
        Column("context", Text, primary_key=True),
        Column("partition", Integer, primary_key=True),
        Column("sequence", BigInteger, nullable=False),
        Column("offset", BigInteger, nullable=False),
        Column("topic_id", Text, nullable=False),
        # Updated with every batch: room in the page keeps the updates out of the index.
        postgresql_with={"fillfactor": 50},
    )
    parked = Table(
        "parked_records",
        metadata,
        Column("context", Text, primary_key=True),
        Column("partition", Integer, primary_key=True),
        Column("topic_id", Text, primary_key=True),
        Column("offset", BigInteger, primary_key=True),
        # The sequence after which it lies; a record that is not ours has none of its own.
        Column("sequence", BigInteger, nullable=False),
        Column("fork", Boolean, nullable=False),
        Column("reason", Text, nullable=False),
        Column("key", LargeBinary, nullable=True),
        Column("value", LargeBinary, nullable=True),
        Column("headers", JSONB, nullable=False),
        Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    return projections, positions, parked


def migrate(connection: Connection[Any], schema: str) -> None:
    """Create what is missing. The caller's transaction holds the lock until it commits."""
    lock(connection, f"{LOCK_NAME}:{schema}")
    known = connection.execute(
        "SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)
    ).fetchone()
    if known is None:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    for table in own_tables(schema):
        connection.execute(sql.SQL(compiled(CreateTable(table, if_not_exists=True))))


def lock(connection: Connection[Any], name: str) -> None:
    """Hold the advisory lock of this name until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
