"""Replaying a stretch of the log into a table to look at: no view shows it, and nobody feeds it.

The table is `name__scratch_label`. A position names the place after its event: a replay from
`orders:3:10` to `orders:3:20` folds the events 11 to 20. A time takes in the events from it on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

from tidelog.engine.bulk import BulkFold
from tidelog.engine.bulk_reading import BulkReader, Shard
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.errors import Invalid, TidelogError
from tidelog.position import parse_token
from tidelog.postgres.bulk_store import RowStore, connect, errors
from tidelog.postgres.rebuilds import Refused
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.tables import Generation, ReadModelTable, checked_name
from tidelog.projection import Projection
from tidelog.rebuild.loading import read_facts, settle, stretch
from tidelog.rebuild.site import Watch, partitions_of
from tidelog.rebuild.workers import World

ROWS_MAX = 1_000_000
"""How many rows a replay may hold; one that makes more is refused, and leaves nothing."""

_LABEL = re.compile(r"[a-z0-9][a-z0-9_]{0,30}")

Bound = Mapping[Partition, int] | datetime | None
"""Where a stretch begins or ends: positions, a time, or where the log does."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The events of a replay: those after `start`, up to `end`."""

    start: Bound
    end: Bound

    def holds(self, partition: Partition, sequence: int, time: datetime) -> bool:
        """Whether this event lies in it."""
        match self.start:
            case datetime():
                after = time >= self.start
            case None:
                after = True
            case positions:
                after = sequence > positions.get(partition, 0)
        return after and not (isinstance(self.end, datetime) and time >= self.end)


def read_bound(text: str | None) -> Bound:
    """Positions joined by commas, or a time (RFC 3339). Invalid where it is neither."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        try:
            return {Partition(at.context, at.partition): at.sequence for at in parse_token(text)}
        except TidelogError:
            raise Invalid(
                f"{text!r} is neither positions (orders:3:1042,…) nor a time (2026-01-31T12:00:00Z)"
            ) from None
    if time.tzinfo is None:
        raise Invalid(f"{text!r} says no time zone; end it with Z, or an offset")
    return time


def replay(world: World, label: str, stretch_of: Stretch, watch: Watch) -> dict[str, Any]:
    """Fold the stretch into its table; what came of it, as JSON.

    Raises Invalid where the stretch is impossible, and Refused where the label is in use; then
    nothing has changed.
    """
    projection = world.site.projection(world.projection)
    name = scratch_name(world.projection, label)
    partitions = partitions_of(world.site.topics(projection))
    targets = _targets(stretch_of, partitions, world.site.ends(partitions))
    with _new_table(world, name) as connection:
        watch.phase("replay", sum(targets.values()))
        if isinstance(projection, SqlProjection):
            result = _write_facts(connection, world, projection, name, stretch_of, targets, watch)
        else:
            result = _write_rows(connection, world, projection, name, stretch_of, targets, watch)
    return {"projection": world.projection, "label": label, "table": name, **result}


def drop_scratch(world: World, label: str) -> str:
    """Drop the table of a replay; its name. Refused where there is none."""
    name = scratch_name(world.projection, label)
    world.site.projection(world.projection)
    with closing(connect(world.site.dsn, "tidelog-replay")) as connection:
        if not _exists(connection, world.site.schema, name):
            raise Refused(f"there is no {name} to drop.")
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(world.site.schema, name)))
    return name


def scratch_name(projection: str, label: str) -> str:
    """The name of the table. Invalid where the label is none."""
    if _LABEL.fullmatch(label) is None:
        raise Invalid(f"{label!r} is no label: lower-case letters, digits and _, at most 31")
    return checked_name(f"{projection}__scratch_{label}")


def _targets(
    stretch_of: Stretch, partitions: list[Partition], ends: Mapping[Partition, int]
) -> dict[Partition, int]:
    """Up to where each partition is read. Invalid where the stretch runs backwards or too far."""
    start, end = stretch_of.start, stretch_of.end
    for bound in (start, end):
        for at, sequence in bound.items() if isinstance(bound, Mapping) else ():
            if at not in partitions:
                raise Invalid(f"{at} is no partition that this projection reads")
            if sequence > ends[at]:
                raise Invalid(f"{at}:{sequence} lies beyond the end of the log, {at}:{ends[at]}")
    if isinstance(start, datetime) and isinstance(end, datetime) and start > end:
        raise Invalid(f"the stretch runs backwards: from {start} to {end}")
    if not isinstance(end, Mapping):
        return dict(ends)
    if isinstance(start, Mapping):
        for at, sequence in start.items():
            if at in end and sequence > end[at]:
                raise Invalid(f"the stretch runs backwards: from {at}:{sequence} to {at}:{end[at]}")
    return {at: end.get(at, ends[at]) for at in partitions}


@contextmanager
def _new_table(world: World, name: str) -> Iterator[Connection[Any]]:
    """A transaction in which the table can be made, and that nobody else makes it in."""
    schema = world.site.schema
    with closing(connect(world.site.dsn, "tidelog-replay")) as connection:
        own = Generation(world.projection, 0, 0)
        with errors(own), connection.transaction():
            took = connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))",
                (f"tidelog-replay:{schema}:{world.projection}",),
            ).fetchone()
            if took != (True,):
                raise Refused(f"a replay of {world.projection} is under way; wait for its end.")
            if _exists(connection, schema, name):
                raise Refused(f"{name} is there already: choose another label, or --drop it first.")
            yield connection


def _exists(connection: Connection[Any], schema: str, name: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = %s", (schema, name)
    ).fetchone()
    return found is not None


def _write_rows(
    connection: Connection[Any],
    world: World,
    projection: Projection[Any, Any],
    name: str,
    stretch_of: Stretch,
    targets: Mapping[Partition, int],
    watch: Watch,
) -> dict[str, Any]:
    shard = Shard(number=0, partitions=tuple(targets))
    events = 0
    progress = dict.fromkeys(targets, Progress())
    with world.site.codec(projection) as codec, stretch(world, progress, targets) as log:
        reader = BulkReader(projection, shard, codec, world.decisions)
        fold = BulkFold(projection, shard, codec, progress=progress)
        for at, records in log.chunks():
            before = progress[at].sequence
            items, progress[at] = reader.read(at, records, progress[at], targets[at])
            taken = [item for item in items if stretch_of.holds(at, item.sequence, item.time)]
            fold.fold(at, taken)
            events += len({item.sequence for item in taken})
            if len(fold) > ROWS_MAX:
                raise Refused(f"the stretch makes more than {ROWS_MAX} rows: choose a shorter one.")
            settle(log, at, records, progress[at], targets[at])
            watch.advance(progress[at].sequence - before)
    segment = fold.drain()
    # No generation has the number 0: the table gets its name once it is filled.
    table = ReadModelTable(projection, 0, world.site.schema)
    connection.execute(sql.SQL(table.create_statements()[0]))
    RowStore(table, connection, sql.Identifier(world.site.schema, "parked_keys")).copy(
        segment.added
    )
    connection.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            sql.Identifier(world.site.schema, table.table.name), sql.Identifier(name)
        )
    )
    failed = segment.parked
    return {
        "events": events,
        "rows": len(segment.added),
        "failed": len(failed),
        "first_failure": None
        if not failed
        else {
            "key": failed[0].key,
            "position": f"{failed[0].partition}:{failed[0].sequence}",
            "type": failed[0].kind,
            "error": f"{type(failed[0].error).__name__}: {failed[0].error}",
        },
    }


def _write_facts(
    connection: Connection[Any],
    world: World,
    projection: SqlProjection,
    name: str,
    stretch_of: Stretch,
    targets: Mapping[Partition, int],
    watch: Watch,
) -> dict[str, Any]:
    table = sql.Identifier(world.site.schema, name)
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(projection.columns)))
    events = 0

    def advance(read: int) -> bool:
        watch.advance(read)
        return False

    progress = dict.fromkeys(targets, Progress())
    for at, reading in read_facts(projection, world, progress, targets, advance):
        facts = [
            fact for fact in reading.facts if stretch_of.holds(at, fact.sequence, fact.recorded_at)
        ]
        if facts:
            projection.write(connection, table, facts)
        events += len(facts)
    count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert count is not None, "a count gives a row in any case"
    return {"events": events, "rows": count[0], "failed": 0, "first_failure": None}
