"""The record of rebuilds: which generation is being filled, up to where, and by whom just now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from tidelog.engine.bulk_reading import Shard
from tidelog.engine.heeded import Heeded
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import Partition
from tidelog.errors import TidelogError
from tidelog.postgres.tables import Generation

Status = Literal["loading", "catching-up", "verifying", "switched"]
UNFINISHED = ("loading", "catching-up", "verifying")


class Refused(TidelogError):
    """What was asked for cannot be done as things stand; nothing has changed."""

    status = 409
    title = "It cannot be done as things stand"


class Unfinished(NamedTuple):
    """A rebuild that has begun and not ended."""

    generation: Generation
    status: Status
    shards: int
    events: int
    started_at: datetime


@contextmanager
def alone(connection: Connection[Any], schema: str, projection: str) -> Iterator[None]:
    """Hold the projection's administrative lock; Refused where somebody else does, naming whom.

    The lock is the session's: whoever dies gives it up.
    """
    name = f"tidelog-rebuild:{schema}:{projection}"
    took = connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)
    ).fetchone()
    if took != (True,):
        raise Refused(f"{projection} is being worked on by {_holder(connection, name)}.")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))


def _holder(connection: Connection[Any], name: str) -> str:
    found = connection.execute(
        "SELECT a.application_name, a.backend_start FROM pg_locks AS l "
        "JOIN pg_stat_activity AS a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted "
        "AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint) "
        "= hashtextextended(%s, 0)",
        (name,),
    ).fetchone()
    if found is None:
        return "somebody who has just ended; try again"
    return f"{found[0]}, since {found[1]:%Y-%m-%d %H:%M:%S %Z}"


def unfinished(connection: Connection[Any], schema: str, projection: str) -> Unfinished | None:
    """The rebuild of this projection that has not ended, if there is one."""
    found = connection.execute(
        _sql(
            "SELECT version, generation, status, shards, events, started_at FROM {} "
            "WHERE projection = %s AND status = ANY(%s) ORDER BY started_at DESC LIMIT 1",
            schema,
        ),
        (projection, list(UNFINISHED)),
    ).fetchone()
    if found is None:
        return None
    version, generation, *rest = found
    return Unfinished(Generation(projection, version, generation), *rest)


def begin(
    connection: Connection[Any],
    schema: str,
    generation: Generation,
    shards: Sequence[Shard],
    topics: Mapping[str, TopicInfo],
    heeded: Heeded,
) -> None:
    """Note a rebuild, its shards at the beginning of the log, and which topics it reads.

    `heeded` are the decisions that it begins with. Should it go on with further ones later, this
    stays: once it is fed, the rows that those are about are folded again.
    """
    connection.execute(
        _sql(
            "INSERT INTO {} (projection, version, generation, status, shards, targets) "
            "VALUES (%s, %s, %s, 'loading', %s, '{{}}')",
            schema,
        ),
        (*generation, len(shards)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            _sql(
                "INSERT INTO {} (projection, version, generation, shard, context, partition, "
                'sequence, "offset") VALUES (%s, %s, %s, %s, %s, %s, 0, -1)',
                schema,
                "rebuild_progress",
            ),
            [(*generation, shard.number, *at) for shard in shards for at in shard.partitions],
        )
        cursor.executemany(
            _sql(
                "INSERT INTO {} (projection, version, generation, context, partition, "
                'sequence, "offset", topic_id, heeded) VALUES (%s, %s, %s, %s, %s, 0, -1, %s, %s)',
                schema,
                "projection_positions",
            ),
            [
                (*generation, context, number, topic.id, heeded)
                for context, topic in topics.items()
                for number in range(topic.partitions)
            ],
        )


def topic_ids(connection: Connection[Any], schema: str, generation: Generation) -> dict[str, str]:
    """The ids of the topics that the generation is folded from."""
    found = connection.execute(
        _sql(
            "SELECT DISTINCT context, topic_id FROM {} "
            "WHERE projection = %s AND version = %s AND generation = %s",
            schema,
            "projection_positions",
        ),
        generation,
    )
    return dict(found.fetchall())


def set_targets(
    connection: Connection[Any],
    schema: str,
    generation: Generation,
    targets: Mapping[Partition, int],
) -> None:
    """Note up to where the bulk load goes."""
    connection.execute(
        _sql(
            "UPDATE {} SET targets = %s, updated_at = now() "
            "WHERE projection = %s AND version = %s AND generation = %s",
            schema,
        ),
        (Jsonb({str(at): target for at, target in targets.items()}), *generation),
    )


def set_status(
    connection: Connection[Any],
    schema: str,
    generation: Generation,
    status: Status,
    events: int = 0,
) -> None:
    """Note how far the rebuild is, and how many events it has read since it was noted last."""
    connection.execute(
        _sql(
            "UPDATE {} SET status = %s, events = events + %s, updated_at = now() "
            "WHERE projection = %s AND version = %s AND generation = %s",
            schema,
        ),
        (status, events, *generation),
    )


def shard_progress(
    connection: Connection[Any], schema: str, generation: Generation
) -> dict[tuple[int, Partition], Progress]:
    """How far every shard is with every partition that it reads."""
    found = connection.execute(
        _sql(
            'SELECT shard, context, partition, sequence, "offset" FROM {} '
            "WHERE projection = %s AND version = %s AND generation = %s",
            schema,
            "rebuild_progress",
        ),
        generation,
    )
    return {
        (shard, Partition(context, number)): Progress(sequence, offset)
        for shard, context, number, sequence, offset in found
    }


def hand_over(
    connection: Connection[Any],
    schema: str,
    generation: Generation,
    reached: Mapping[Partition, Progress],
) -> None:
    """Set the generation's positions to where its load has ended, all shards alike."""
    with connection.cursor() as cursor:
        cursor.executemany(
            _sql(
                'UPDATE {} SET sequence = %s, "offset" = %s WHERE projection = %s '
                "AND version = %s AND generation = %s AND context = %s AND partition = %s",
                schema,
                "projection_positions",
            ),
            [(*progress, *generation, *at) for at, progress in reached.items()],
        )


def _sql(text: LiteralString, schema: str, table: LiteralString = "rebuilds") -> sql.Composed:
    return sql.SQL(text).format(sql.Identifier(schema, table))
