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
from sqlalchemy.schema import CreateColumn, CreateTable

from tidelog.postgres.tables import compiled

LOCK_NAME = "tidelog-migrations"

OVERTAKEN = "TL001"
"""The SQLSTATE with which a statement ends that was to advance positions which others advanced."""

REQUIRE_ALL = "require_all"
_REQUIRE_ALL = """
CREATE FUNCTION {} (advanced bigint, wanted bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF advanced <> wanted THEN
        RAISE EXCEPTION 'overtaken: % of % positions', advanced, wanted USING ERRCODE = {};
    END IF;
    RETURN true;
END $$
"""


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
        # loading: a rebuild fills it; live: the projectors feed it.
        Column("state", Text, nullable=False, server_default="live"),
        # The hash of the definition that folds it; empty where it is not known.
        Column("definition", Text, nullable=False, server_default=""),
        # Why only a rebuild makes it what it should be; empty where nothing is wrong.
        Column("needs_rebuild", Text, nullable=False, server_default=""),
        # When it last served before another took its place: what a rollback goes back to.
        Column("served_until", DateTime(timezone=True), nullable=True),
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
        # Which decisions its rows of this partition have heeded: "0:17,3:4".
        Column("heeded", Text, nullable=False, server_default=""),
        # When it last moved: a lag that nobody works off is told from one that shrinks.
        Column("advanced_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
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
    return projections, positions, parked, _parked_keys(metadata), *_rebuilds(metadata)


def _generation_columns() -> tuple[Column[Any], ...]:
    return (
        Column("projection", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("generation", Integer, primary_key=True),
    )


def _parked_keys(metadata: MetaData) -> Table:
    """One row for each row of a read model whose fold failed; the events stay in the log."""
    return Table(
        "parked_keys",
        metadata,
        *_generation_columns(),
        Column("key", Text(collation="C"), primary_key=True),
        # The event that failed.
        Column("context", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("offset", BigInteger, nullable=False),
        Column("aggregate_id", Text, nullable=False),
        Column("event_type", Text, nullable=False),
        # Up to where the row holds its events: {"orders:3": [sequence, offset]}.
        Column("after", JSONB, nullable=False),
        # The row holds more than `after` says: it stays until it has been folded again.
        Column("stale", Boolean, nullable=False, server_default="false"),
        # How many later events wait behind it.
        Column("waiting", BigInteger, nullable=False, server_default="0"),
        Column("attempts", Integer, nullable=False),
        Column("error_type", Text, nullable=False),
        Column("error", Text, nullable=False),
        Column("parked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("attempted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        # When it is tried again by itself; none: it waits for a person.
        Column("next_attempt_at", DateTime(timezone=True), nullable=True),
    )


def _rebuilds(metadata: MetaData) -> tuple[Table, Table]:
    """A rebuild that can be resumed, and how far each of its shards is."""
    rebuilds = Table(
        "rebuilds",
        metadata,
        *_generation_columns(),
        # loading, catching-up, verifying, switched, cancelled
        Column("status", Text, nullable=False),
        Column("shards", Integer, nullable=False),
        # The positions up to which it loads in bulk: {"orders:3": sequence}.
        Column("targets", JSONB, nullable=False),
        Column("events", BigInteger, nullable=False, server_default="0"),
        Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    progress = Table(
        "rebuild_progress",
        metadata,
        *_generation_columns(),
        Column("shard", Integer, primary_key=True),
        Column("context", Text, primary_key=True),
        Column("partition", Integer, primary_key=True),
        Column("sequence", BigInteger, nullable=False),
        Column("offset", BigInteger, nullable=False),
    )
    return rebuilds, progress


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
        _add_columns(connection, schema, table)
    _make_function(connection, schema)


def _make_function(connection: Connection[Any], schema: str) -> None:
    """What lets a single statement be all or nothing."""
    there = connection.execute(
        "SELECT 1 FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
        "WHERE n.nspname = %s AND p.proname = %s",
        (schema, REQUIRE_ALL),
    ).fetchone()
    if there is None:
        own = sql.Identifier(schema, REQUIRE_ALL)
        connection.execute(sql.SQL(_REQUIRE_ALL).format(own, sql.Literal(OVERTAKEN)))


def _add_columns(connection: Connection[Any], schema: str, table: Table) -> None:
    """Add the columns that the table of an earlier version lacks.

    What is there is looked up first: to alter a table, even in vain, locks it against everybody.
    """
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s",
        (schema, table.name),
    )
    there = {name for (name,) in found}
    for column in table.columns:
        if column.name not in there:
            statement = sql.SQL("ALTER TABLE {} ADD COLUMN {}").format(
                sql.Identifier(schema, table.name), sql.SQL(compiled(CreateColumn(column)))
            )
            connection.execute(statement)


def lock(connection: Connection[Any], name: str) -> None:
    """Hold the advisory lock of this name until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
