"""The projectors of a process: every live generation of its read models is fed, each on a thread.

Which generations there are is looked up every second: a rebuild adds one, `drop-old` takes one
away, and neither needs a restart. A read model of which only other versions are registered is not
filled here: that is what a rebuild is for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from zlib import crc32

from tidelog.definitions import AnyProjection
from tidelog.engine.folding import Decisions
from tidelog.engine.ports import MessageCodec
from tidelog.engine.projection_store import ProjectionStore
from tidelog.errors import TidelogError, Unavailable
from tidelog.feeder import Feeder
from tidelog.kafka.reader import existing_topics, read_topics
from tidelog.kafka.topics import admin_client
from tidelog.lanes import LaneOptions, LiveLane
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.postgres.catalogue import Catalogue
from tidelog.postgres.generations import Registered
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.sql_store import SqlProjectionStore
from tidelog.postgres.tables import Generation
from tidelog.settings import Settings

LOOK_S = 1.0
STOP_TIMEOUT_S = 10.0
FIRST_GENERATION = 1

log = get_logger(__name__)

DecisionsFor = Callable[[str, int], Decisions]
"""A projection's decisions, by its name and version: a mapping that may grow."""


def no_decisions(_name: str, _version: int) -> Decisions:
    """Nobody has decided anything."""
    return {}


def store_for(
    projection: AnyProjection, generation: int, settings: Settings, decisions: Decisions
) -> ProjectionStore:
    """Where a generation of the projection is kept, which is folded with these decisions."""
    dsn, schema = settings.postgres_dsn, settings.postgres_schema
    if isinstance(projection, SqlProjection):
        return SqlProjectionStore(
            projection, dsn=dsn, schema=schema, generation=generation, decisions=decisions
        )
    return PostgresProjectionStore(
        projection, dsn=dsn, schema=schema, generation=generation, decisions=decisions
    )


def contexts_of(projections: Iterable[AnyProjection]) -> list[Context]:
    """The contexts that any of these reads, each once."""
    found = {context.name: context for each in projections for context in each.contexts}
    return list(found.values())


class Projectors:
    """Feeds read models. `run` is a thread's target; everything else any thread may call.

    `prepare` is called before the first read (it may raise Unavailable).
    """

    def __init__(
        self,
        projections: Sequence[AnyProjection],
        settings: Settings,
        *,
        codec: MessageCodec,
        prepare: Callable[[], None],
        decisions: DecisionsFor = no_decisions,
    ) -> None:
        self._projections = projections
        self._settings = settings
        self._decisions = decisions
        self._admin = admin_client(settings.kafka_bootstrap_servers)
        self._catalogue = Catalogue(dsn=settings.postgres_dsn, schema=settings.postgres_schema)
        contexts = contexts_of(projections)
        self._live = LiveLane(
            contexts,
            codec,
            LaneOptions(
                bootstrap_servers=settings.kafka_bootstrap_servers,
                topic_prefix=settings.topic_prefix,
                group=_group(projections, settings.topic_prefix),
                instance=settings.instance,
                session_timeout_ms=settings.session_timeout_ms,
                batch_events_max=settings.projection_batch_events_max,
            ),
            prepare=prepare,
            topics=partial(existing_topics, self._admin, contexts, settings.topic_prefix),
        )
        self._feeders: dict[Generation, Feeder] = {}
        self._threads: dict[Generation, threading.Thread] = {}
        self._unfilled: dict[str, str] = {}
        self._ill: dict[str, str] = {}
        self._trouble: str | None = "starting"
        self._stopping = threading.Event()

    @property
    def names(self) -> list[str]:
        """The read models of this process."""
        return [each.name for each in self._projections]

    @property
    def feeders(self) -> list[Feeder]:
        """Those at work now."""
        return list(self._feeders.copy().values())

    def problems(self, name: str) -> list[str]:
        """Why this read model is not well, each with its cure; empty where all is well."""
        own = [each for each in self.feeders if each.generation.projection == name]
        found = [] if own or name in self._unfilled else [self._trouble or "starting"]
        if name in self._ill:
            found = [self._ill[name]]
        return found + [problem for each in own for problem in each.problems()]

    def log_problems(self) -> list[str]:
        """What is wrong with the log, or with reading it: for all read models."""
        return self._live.problems()

    def apart(self) -> list[str]:
        """The tables that are fed in a lane of their own, because they are far from the others."""
        return self._live.apart()

    def notes(self) -> list[str]:
        """What a person should know, though nothing is wrong: read models that need a rebuild."""
        return sorted(self._unfilled.values())

    def stop(self) -> None:
        """Finish the batches in hand, then leave."""
        self._stopping.set()

    def run(self) -> None:
        """Feed until stopped."""
        lane = threading.Thread(target=self._live.run, name="lane-live", daemon=True)
        lane.start()
        while not self._stopping.is_set():
            try:
                self._feed(self._catalogue.look(self.names))
                self._trouble = None
            except Unavailable as error:
                self._trouble = str(error)
                log.warning("projectors.wait", reason=str(error))
            self._stopping.wait(LOOK_S)
        self._live.stop()
        for each in self._feeders.values():
            each.stop()
        for thread in (*self._threads.values(), lane):
            thread.join(STOP_TIMEOUT_S)
            if thread.is_alive():
                log.error("projection.did_not_stop", thread=thread.name)
        self._catalogue.close()

    # --- which generations ------------------------------------------------------------------

    def _feed(self, known: Mapping[str, Sequence[Registered]]) -> None:
        """Begin to feed what is new, let go of what is gone."""
        wanted = {
            Generation(each.name, each.version, number): each
            for each in self._projections
            for number in self._live_generations(each, known[each.name])
        }
        for generation in [each for each in self._feeders if each not in wanted]:
            self._feeders.pop(generation).stop()
            self._threads.pop(generation)
        for generation in [each for each, feeder in self._feeders.items() if feeder.gone]:
            # It was dropped; where it is registered again, it is fed again.
            self._feeders.pop(generation)
            self._threads.pop(generation)
        self._ill.clear()
        for generation, projection in wanted.items():
            if generation not in self._feeders:
                try:
                    self._begin(projection, generation, known[projection.name])
                except TidelogError as error:  # an ill definition: shown, and tried again
                    self._ill[projection.name] = str(error)
                    log.error("projection.refused", table=generation.table, reason=str(error))
        self._live.feed(self.feeders)

    def _live_generations(
        self, projection: AnyProjection, known: Sequence[Registered]
    ) -> list[int]:
        """The generations to feed: those of the declared version, or the first of all."""
        name, version = projection.name, projection.version
        self._unfilled.pop(name, None)
        if not known:
            return [FIRST_GENERATION]
        own = [each for each in known if each.generation.version == version]
        if not own:
            self._unfilled[name] = (
                f"{name} has version {version}, and no table of it is registered. "
                f"Fill it: `tidelog projection rebuild {name}`."
            )
        return [each.generation.generation for each in own if each.state == "live"]

    def _begin(
        self, projection: AnyProjection, generation: Generation, known: Sequence[Registered]
    ) -> None:
        settings = self._settings
        decisions = self._decisions(projection.name, projection.version)
        serves = all(each.generation == generation for each in known if each.serving)
        feeder = Feeder(
            projection,
            generation.generation,
            label=projection.name if serves else generation.table,
            store=store_for(projection, generation.generation, settings, decisions),
            topics=partial(read_topics, self._admin, projection.contexts, settings.topic_prefix),
            decisions=decisions,
            batch_events_max=settings.projection_batch_events_max,
            queue_events_max=settings.projection_queue_events_max,
        )
        thread = threading.Thread(target=feeder.run, name=generation.table, daemon=True)
        self._feeders[generation], self._threads[generation] = feeder, thread
        thread.start()
        log.info("projection.fed", table=generation.table)


def _group(projections: Iterable[AnyProjection], topic_prefix: str) -> str:
    """The consumer group: processes share partitions where they feed the same read models.

    Processes with other lists, as in a rolling update, must each see every partition.
    """
    names = ",".join(sorted(f"{each.name}~{each.version}" for each in projections))
    return f"{topic_prefix}tidelog-projectors-{crc32(names.encode()):08x}"
