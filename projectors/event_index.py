"""Every event of every context with its bytes, to be found by aggregate, correlation or type.

History, time travel and live streams read from here. It is written by hand-made SQL because it
folds nothing: each event becomes one row, and no row ever changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import Connection, sql

from schemas import CONTEXTS
from tidelog.engine.reading import Fact
from tidelog.postgres.sql_projection import SqlProjection

COLUMNS: LiteralString = """
    context text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    sequence bigint NOT NULL,
    "offset" bigint NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    causation_id text NOT NULL,
    message_id text NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (context, partition, sequence)
"""

# Never an update of a row: one statement, all of a batch, each column an array in binary.
INSERT: LiteralString = """
    INSERT INTO {} (context, partition, sequence, "offset", aggregate_id, version, type, time,
        correlation_id, causation_id, message_id, value)
    SELECT * FROM unnest(%b::text[], %b::int[], %b::bigint[], %b::bigint[], %b::text[],
        %b::bigint[], %b::text[], %b::timestamptz[], %b::text[], %b::text[], %b::text[],
        %b::bytea[])
"""


def write(connection: Connection[Any], table: sql.Identifier, facts: Sequence[Fact]) -> None:
    """Add the events."""
    metadata = [fact.metadata for fact in facts]
    connection.execute(
        sql.SQL(INSERT).format(table),
        (
            [fact.partition.context for fact in facts],
            [fact.partition.number for fact in facts],
            [fact.sequence for fact in facts],
            [fact.offset for fact in facts],
            [each.subject for each in metadata],
            [fact.version for fact in facts],
            [type(fact.event).__name__ for fact in facts],
            [fact.recorded_at for fact in facts],
            [each.correlation_id for each in metadata],
            [each.causation_id for each in metadata],
            [each.message_id for each in metadata],
            [fact.record.value for fact in facts],
        ),
    )


event_index = SqlProjection(
    name="event_index",
    version=2,
    contexts=CONTEXTS,
    columns=COLUMNS,
    write=write,
    indexes=[
        "context, aggregate_id, version",
        "correlation_id, context, partition, sequence",
        "type, context, partition, sequence",
    ],
)
