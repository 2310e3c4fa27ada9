"""Feeding a generation to the present end of the log, by the same steps as the projectors take.

A rebuild does this where no projector does. Each step is a compare-and-set: should a projector come
after all, one of the two is overtaken and nothing is folded twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from threading import Event
from typing import Any

from tidelog.definitions import AnyProjection
from tidelog.engine.folding import Changes, Folder, revised
from tidelog.engine.heeding import heed
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Applied, Overtaken, ProjectionStore, Step, TopicInfo
from tidelog.engine.reading import EventReader, Partition, Reading
from tidelog.errors import CodecError, LogHole
from tidelog.kafka.span_facts import SpanFacts
from tidelog.kafka.spans import SpanReader
from tidelog.postgres.heed_store import PostgresHeedStore
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.sql_store import SqlProjectionStore
from tidelog.postgres.tables import Generation
from tidelog.rebuild.loading import settle, stretch
from tidelog.rebuild.workers import World


def store_of(world: World, projection: AnyProjection, generation: int) -> ProjectionStore:
    """The store of one generation, as the projectors make it."""
    dsn, schema, decisions = world.site.dsn, world.site.schema, world.decisions
    if isinstance(projection, SqlProjection):
        return SqlProjectionStore(
            projection, dsn=dsn, schema=schema, generation=generation, decisions=decisions
        )
    return PostgresProjectionStore(
        projection, dsn=dsn, schema=schema, generation=generation, decisions=decisions
    )


def feed(world: World, generation: int, topics: Mapping[str, TopicInfo]) -> int:
    """Fold in what the log has by now; how many events. Ends early where a projector feeds it."""
    projection = world.site.projection(world.projection)
    store = store_of(world, projection, generation)
    with closing(store), world.site.codec(projection) as codec:
        store.open(topics)
        progress = store.progress()
        targets = world.site.ends(sorted(progress))
        events = EventReader(projection.contexts, codec)
        fold = _fold_of(world, projection)
        total = 0
        with stretch(world, progress, targets) as reader:
            for at, records in reader.chunks():
                reading = events.read({at: records}, progress)
                if isinstance(fold(store, reading, progress), Overtaken):
                    return total
                progress.update(reading.progress)
                total += len(reading.facts)
                settle(reader, at, records, progress[at], targets[at])
        return total


def heed_here(world: World, generation: Generation) -> None:
    """Have the generation heed what is decided by now, as the projectors do.

    The rows that this is about are folded again by the projectors.
    """
    projection, site = world.site.projection(world.projection), world.site
    if world.made is None or isinstance(projection, SqlProjection):
        return
    store = PostgresHeedStore(generation, dsn=site.dsn, schema=site.schema)
    reader = SpanReader(
        bootstrap_servers=site.bootstrap_servers,
        topic_prefix=site.topic_prefix,
        client_id="tidelog-rebuild",
    )
    with closing(store), closing(reader), site.codec(projection) as codec:
        events = EventReader(projection.contexts, codec)
        heed(projection, store, SpanFacts(reader, events, Event()), world.made())


def _fold_of(world: World, projection: AnyProjection) -> Any:
    folder = None if isinstance(projection, SqlProjection) else Folder(projection, world.decisions)

    def fold(
        store: ProjectionStore, reading: Reading, progress: Mapping[Partition, Progress]
    ) -> Applied:
        for hole in reading.holes:
            raise LogHole(
                f"{hole.partition}: sequence {hole.progress.sequence + 1} is missing, the next "
                f"one is {hole.found}. Restore the topic."
            )
        touches, failure = folder.touches(reading.facts) if folder else ([], None)
        if failure is not None:
            raise CodecError(f"{projection.name}: the rows of {failure.fact.position} fail")
        touched = sorted({touch.key for touch in touches})
        return store.apply(
            Step(
                before={at: progress[at] for at in reading.progress},
                after=reading.progress,
                parked=reading.parked,
                facts=revised(reading.facts, world.decisions, projection.contexts),
                touched=touched,
                keys=touched,
                shared=folder is not None and folder.shared,
                fold=lambda rows, waiting: (
                    folder.fold(touches, rows, waiting) if folder else Changes({}, [], [], {})
                ),
            )
        )

    return fold
