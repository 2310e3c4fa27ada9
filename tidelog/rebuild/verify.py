"""Proving a read model: its rows against the log, folded again up to the positions beside them.

Rows, positions and parked keys are read in one snapshot, which the workers share, so that it can be
proved while it is fed. A key that is parked is folded as far as its row says that it holds events.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from tidelog.engine.bulk import BulkFold, Waiting, limits
from tidelog.engine.bulk_reading import Shard
from tidelog.engine.folding import row_owner
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.errors import TopicRecreated, Unknown
from tidelog.postgres import generations, rebuilds
from tidelog.postgres.bulk_store import connect, errors, read_parked, read_stale
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.tables import Generation, ReadModelTable
from tidelog.projection import Projection
from tidelog.rebuild.differences import (
    DIFFERENCES_MAX,
    Difference,
    Snapshot,
    first_difference,
    shards_with,
)
from tidelog.rebuild.loading import settle, stretch
from tidelog.rebuild.site import Report, Watch
from tidelog.rebuild.verify_sql import compare_sql
from tidelog.rebuild.workers import Workers, World

FETCH_ROWS = 5_000


class Compared(NamedTuple):
    """What a shard came to."""

    rows: int
    differing: int
    differences: list[Difference]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether a generation is the fold of the log up to its positions, less what is parked."""

    generation: Generation
    equal: bool
    rows: int
    events: int
    seconds: float
    positions: Mapping[str, int]
    parked: int
    differing: int
    first_difference: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """The result as the command line prints it."""
        return {
            "projection": self.generation.projection,
            "equal": self.equal,
            "rows": self.rows,
            "positions": dict(self.positions),
            "parked": self.parked,
            "first_difference": self.first_difference,
            "version": self.generation.version,
            "generation": self.generation.generation,
            "differing": self.differing,
            "events": self.events,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True)
class VerifyShard:
    """The task of folding a shard again and comparing it with its rows."""

    generation: Generation
    shard: Shard
    targets: Mapping[Partition, int]
    waiting: Waiting
    snapshot: str
    # Rows that are about to be folded again: what they hold until then is no difference.
    stale: frozenset[str] = frozenset()

    def run(self, world: World, report: Report) -> Compared:
        """Fold, then compare."""
        projection = world.site.projection(world.projection)
        assert isinstance(projection, Projection), "SQL of its own is proved by SQL"
        with world.site.codec(projection) as codec:
            fold = BulkFold(
                projection,
                self.shard,
                codec,
                progress=dict.fromkeys(self.shard.partitions, Progress()),
                decisions=world.decisions,
                waiting=self.waiting,
            )
            if not self._fold(world, fold, report):
                return Compared(0, 0, [])
        return self._compare(projection, world, fold)

    def _fold(self, world: World, fold: BulkFold, report: Report) -> bool:
        """Fold up to the targets; whether it got there."""
        with stretch(world, fold.progress, self.targets) as reader:
            for at, records in reader.chunks():
                events = fold.take(at, records, self.targets[at])
                settle(reader, at, records, fold.progress[at], self.targets[at])
                if report(events):
                    return False
        return True

    def _compare(self, projection: Projection[Any, Any], world: World, fold: BulkFold) -> Compared:
        table = ReadModelTable(projection, self.generation.generation, world.site.schema)
        expected_all = fold.rows()
        expected = dict(expected_all)
        failed = {each.key: each for each in fold.failures()}
        differences: list[Difference] = []
        count = found_rows = 0
        with closing(connect(world.site.dsn, "tidelog-verify")) as connection:
            for key, found in stored_rows(connection, table, self.shard, projection, self.snapshot):
                found_rows += 1
                if key in self.stale:
                    continue
                wanted = expected.pop(key, None)
                if wanted != found:
                    count += 1
                    if len(differences) < DIFFERENCES_MAX:
                        differences.append(Difference(key, wanted, found))
        count += len(expected)
        differences += [Difference(key, row, None) for key, row in expected.items()][
            :DIFFERENCES_MAX
        ]
        for key, failure in failed.items():
            count += 1
            text = f"it cannot be folded ({failure.error}), and the key is not parked"
            place = (failure.partition, failure.sequence, text)
            differences.append(Difference(key, expected_all.get(key), None, place))
        return Compared(found_rows, count, differences)


def verify(
    world: World,
    generation: Generation,
    *,
    workers: Workers,
    watch: Watch,
    keys: Sequence[str] | None = None,
    sample: int | None = None,
) -> Proof:
    """Fold the log again and compare. With `keys`, or `sample` of them, these rows alone."""
    began = time.monotonic()
    projection = world.site.projection(world.projection)
    _check_topics(world, generation)
    with closing(connect(world.site.dsn, "tidelog-verify")) as connection, errors(generation):
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot = _snapshot(connection, world, generation)
        if isinstance(projection, SqlProjection):
            watch.phase("verify", sum(snapshot.targets.values()))
            rows, differences, difference = compare_sql(
                connection, world, projection, generation, snapshot.targets, watch
            )
            return _proof(generation, snapshot, rows, differences, difference, began)
        if sample is not None:
            keys = _sampled(connection, projection, world, generation, sample)
        shards = shards_with(projection, snapshot, workers.count, keys)
        tasks = [
            VerifyShard(
                generation=generation,
                shard=shard,
                targets=snapshot.targets,
                waiting=limits(snapshot.parked),
                snapshot=snapshot.name,
                stale=snapshot.stale,
            )
            for shard in shards
        ]
        watch.phase("verify", sum(snapshot.targets[at] for s in shards for at in s.partitions))
        compared: list[Compared] = workers.run(world, tasks, watch.advance)
        found = [each for part in compared for each in part.differences]
        strays = _strays(connection, projection, world, generation, snapshot, keys)
        differences = sum(part.differing for part in compared) + len(strays)
        first = first_difference(world, projection, snapshot, [*found, *strays])
        rows = sum(part.rows for part in compared) + len(strays)
    return _proof(generation, snapshot, rows, differences, first, began)


def serving_generation(world: World) -> Generation:
    """The generation that serves. Unknown where the projection never ran."""
    with closing(connect(world.site.dsn, "tidelog-verify")) as connection:
        there = connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL", (f'"{world.site.schema}".projections',)
        ).fetchone()
        known = (
            generations.registered(connection, world.site.schema, world.projection)
            if there == (True,)
            else []
        )
    now_serving = generations.serving(known)
    if now_serving is None:
        raise Unknown(f"{world.projection} has no table yet: start the projectors, or rebuild it.")
    return now_serving.generation


def stored_rows(
    connection: Connection[Any],
    table: ReadModelTable,
    shard: Shard,
    projection: Projection[Any, Any],
    snapshot: str,
) -> Any:
    """The rows of the shard as the snapshot has them, with their keys."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
    key = sql.Identifier(projection.key)
    conditions: list[sql.Composable] = [sql.SQL("true")]
    if row_owner(projection) is not None:
        prefixes = [f"{at}:%" for at in shard.partitions]
        conditions.append(sql.SQL("position LIKE ANY({})").format(sql.Literal(prefixes)))
    if shard.parts > 1:
        conditions.append(
            sql.SQL("crc32(convert_to({}, 'UTF8')) % {} = {}").format(
                key, sql.Literal(shard.parts), sql.Literal(shard.part)
            )
        )
    if shard.keys is not None:
        texts = [each.decode() for each in shard.keys]
        conditions.append(sql.SQL("{} = ANY({})").format(key, sql.Literal(texts)))
    with connection.cursor("rows", binary=True) as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(
            sql.SQL("SELECT {} FROM {} WHERE {}").format(
                _shown(table),
                sql.Identifier(table.schema, table.table.name),
                sql.SQL(" AND ").join(conditions),
            )
        )
        for record in cursor:
            row = table.stored_row(record)
            yield getattr(row.row, projection.key), row
    connection.execute("ROLLBACK")


def _shown(table: ReadModelTable) -> sql.Composed:
    """All columns; nested values as text, which our own decoder reads."""
    return sql.SQL(", ").join(
        sql.SQL("{}::text" if cast == "jsonb" else "{}").format(sql.Identifier(name))
        for name, cast in zip(table.columns, table.casts, strict=True)
    )


def _snapshot(connection: Connection[Any], world: World, generation: Generation) -> Snapshot:
    schema = world.site.schema
    name = connection.execute("SELECT pg_export_snapshot()").fetchone()
    table = sql.Identifier(schema, generation.table)
    count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert name is not None and count is not None, "both give a row in any case"
    return Snapshot(
        name=name[0],
        rows=count[0],
        positions=generations.positions(connection, schema, generation),
        parked=read_parked(connection, sql.Identifier(schema, "parked_keys"), generation),
        stale=read_stale(connection, sql.Identifier(schema, "parked_keys"), generation),
    )


def _check_topics(world: World, generation: Generation) -> None:
    topics = world.site.topics(world.site.projection(world.projection))
    with closing(connect(world.site.dsn, "tidelog-verify")) as connection, errors(generation):
        stored = rebuilds.topic_ids(connection, world.site.schema, generation)
    for context, topic in topics.items():
        if context in stored and stored[context] != topic.id:
            raise TopicRecreated(
                f"The events topic of {context} is not the one that {generation.table} was folded "
                "from: restore the topic, or rebuild the projection."
            )


def _sampled(
    connection: Connection[Any],
    projection: Projection[Any, Any],
    world: World,
    generation: Generation,
    sample: int,
) -> list[str]:
    found = connection.execute(
        sql.SQL("SELECT {} FROM {} ORDER BY random() LIMIT {}").format(
            sql.Identifier(projection.key),
            sql.Identifier(world.site.schema, generation.table),
            sql.Literal(sample),
        )
    )
    return [key for (key,) in found]


def _strays(
    connection: Connection[Any],
    projection: Projection[Any, Any],
    world: World,
    generation: Generation,
    snapshot: Snapshot,
    keys: Sequence[str] | None,
) -> list[Difference]:
    """Rows of aggregates whose position lies in no partition: no shard has looked at them."""
    if row_owner(projection) is None:
        return []
    text: LiteralString = "SELECT {} FROM {} WHERE NOT position LIKE ANY({})"
    parts: list[sql.Composable] = [sql.Literal([f"{at}:%" for at in snapshot.positions])]
    if keys is not None:
        text += " AND {} = ANY({})"
        parts += [sql.Identifier(projection.key), sql.Literal(list(keys))]
    table = ReadModelTable(projection, generation.generation, world.site.schema)
    found = connection.execute(
        sql.SQL(text + " LIMIT 20").format(
            _shown(table), sql.Identifier(table.schema, table.table.name), *parts
        ),
        binary=True,
    )
    rows = [table.stored_row(record) for record in found]
    return [Difference(getattr(row.row, projection.key), None, row) for row in rows]


def _proof(
    generation: Generation,
    snapshot: Snapshot,
    rows: int,
    differences: int,
    first: Mapping[str, Any] | None,
    began: float,
) -> Proof:
    return Proof(
        generation=generation,
        equal=differences == 0,
        rows=rows,
        events=sum(snapshot.targets.values()),
        seconds=time.monotonic() - began,
        positions={str(at): sequence for at, sequence in sorted(snapshot.targets.items())},
        parked=len(snapshot.parked),
        differing=differences,
        first_difference=first,
    )
