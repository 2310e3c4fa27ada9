"""Loading a shard: the log is read from where the shard stands, folded, and written in segments."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from tidelog.definitions import AnyProjection
from tidelog.engine.bulk import BulkFold, Segment, limits
from tidelog.engine.bulk_reading import Shard, shards_of
from tidelog.engine.folding import revised
from tidelog.engine.judge import Progress
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.engine.reading import EventReader, Partition, Reading
from tidelog.errors import CodecError, LogHole
from tidelog.logging import get_logger
from tidelog.postgres.bulk_store import BulkStore, RowStore
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.tables import Generation, ReadModelTable
from tidelog.projection import Projection
from tidelog.rebuild.log_reader import LogReader
from tidelog.rebuild.site import Report
from tidelog.rebuild.workers import World

ROWS_MAX = 200_000
"""How many rows a worker holds in memory before it writes them."""
SEGMENT_S = 20.0
"""How long a worker folds before it writes what it has, in seconds: what a kill may cost."""

Targets = Mapping[Partition, int]

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadShard:
    """The task of bringing one shard of a new generation to the targets."""

    generation: int
    shard: Shard
    targets: Targets
    rows_max: int = ROWS_MAX

    def run(self, world: World, report: Report) -> int:
        """Load; how many events were read."""
        projection = world.site.projection(world.projection)
        name = Generation(projection.name, projection.version, self.generation)
        store = BulkStore(name, dsn=world.site.dsn, schema=world.site.schema)
        with closing(store):
            if isinstance(projection, SqlProjection):
                return self._load_facts(projection, world, store, report)
            return self._load_rows(projection, world, store, report)

    def _load_rows(
        self, projection: Projection[Any, Any], world: World, store: BulkStore, report: Report
    ) -> int:
        with world.site.codec(projection) as codec:
            return self._load_folded(projection, world, store, codec, report)

    def _load_folded(
        self,
        projection: Projection[Any, Any],
        world: World,
        store: BulkStore,
        codec: MessageCodec,
        report: Report,
    ) -> int:
        site, shard = world.site, self.shard
        table = ReadModelTable(projection, self.generation, site.schema)
        rows = RowStore(table, store.connection, sql.Identifier(site.schema, "parked_keys"))
        progress = store.progress(shard.number)
        fold = BulkFold(
            projection,
            shard,
            codec,
            progress=progress,
            decisions=world.decisions,
            waiting=limits(rows.parked()),
            load=rows.load if any(each.sequence for each in progress.values()) else None,
        )

        def write(segment: Segment) -> None:
            with store.segment(shard.number, segment.before, segment.after):
                rows.write(segment)

        def flush() -> None:
            segment = fold.drain()
            if segment.after == segment.before:
                return
            try:
                write(segment)
            except CodecError as error:
                refused = rows.refused([*segment.added, *segment.changed])
                if not refused:
                    raise
                log.warning("bulk.rows_refused", rows=len(refused), reason=str(error))
                write(fold.refused(segment, refused))
            fold.load = rows.load

        began = time.monotonic()
        with stretch(world, progress, self.targets) as reader:
            for at, records in reader.chunks():
                events = fold.take(at, records, self.targets[at])
                settle(reader, at, records, fold.progress[at], self.targets[at])
                if len(fold) >= self.rows_max or time.monotonic() - began > SEGMENT_S:
                    flush()
                    began = time.monotonic()
                if report(events):
                    break
        flush()
        return fold.events

    def _load_facts(
        self, projection: SqlProjection, world: World, store: BulkStore, report: Report
    ) -> int:
        number = self.shard.number
        table = sql.Identifier(world.site.schema, store.generation.table)
        total = 0
        progress = store.progress(number)
        for at, reading in read_facts(projection, world, progress, self.targets, report):
            before, after = {at: progress[at]}, reading.progress
            with store.segment(number, before, after) as connection:
                if reading.facts:
                    projection.write(connection, table, reading.facts)
            progress.update(after)
            total += len(reading.facts)
        return total


def read_facts(
    projection: SqlProjection,
    world: World,
    progress: Mapping[Partition, Progress],
    targets: Targets,
    report: Report,
) -> Iterator[tuple[Partition, Reading]]:
    """The events from the progress to the targets, as the live side writes them, in batches.

    Those that were edited stand as they were edited, those that were discarded are left out.
    """
    reached = dict(progress)
    with world.site.codec(projection) as codec, stretch(world, progress, targets) as reader:
        events = EventReader(projection.contexts, codec)
        for at, records in reader.chunks():
            reading = events.read({at: records}, reached)
            if reading.holes:
                (hole,) = reading.holes
                raise LogHole(
                    f"{at}: sequence {hole.progress.sequence + 1} is missing, the next one is "
                    f"{hole.found}. Restore the topic."
                )
            facts = [fact for fact in reading.facts if fact.sequence <= targets[at]]
            if facts:
                reached[at] = Progress(facts[-1].sequence, facts[-1].offset)
                taken = revised(facts, world.decisions, projection.contexts)
                yield at, reading._replace(facts=list(taken), progress={at: reached[at]})
            settle(reader, at, records, reached[at], targets[at])
            if report(len(facts)):
                return


@contextmanager
def stretch(
    world: World, progress: Mapping[Partition, Progress], targets: Targets
) -> Iterator[LogReader]:
    """A reader of what lies between the progress and the targets."""
    starts = {
        at: each.offset + 1
        for at, each in progress.items()
        if at in targets and each.sequence < targets[at]
    }
    reader = LogReader(
        bootstrap_servers=world.site.bootstrap_servers,
        topic_prefix=world.site.topic_prefix,
        starts=starts,
    )
    with closing(reader):
        yield reader


def settle(
    reader: LogReader,
    at: Partition,
    records: list[StoredRecord],
    reached: Progress,
    target: int,
) -> None:
    """Let go of a partition that is read to its target; LogHole where the log ends before it."""
    if reached.sequence >= target:
        reader.release(at)
    elif not records:
        raise LogHole(
            f"{at}: the log ends at sequence {reached.sequence}, before {target}, which it had "
            "reached. Events are missing at its end: restore the topic."
        )


def shards_for(
    projection: AnyProjection, partitions: list[Partition], at_least: int
) -> list[Shard]:
    """The shards of any projection; one that writes its own SQL has one per partition."""
    if isinstance(projection, SqlProjection):
        return [Shard(number=number, partitions=(at,)) for number, at in enumerate(partitions)]
    return shards_of(projection, partitions, at_least)
