"""Rebuilding a read model: a new generation is filled in bulk, catches up, is proved, and serves.

The generation that serves does so all the while. What was done is noted in PostgreSQL, so that a
rebuild that ends anywhere, by whatever cause, goes on from there when it is run again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql

from tidelog.definition import definition_hash
from tidelog.definitions import AnyProjection
from tidelog.engine.bulk_reading import Shard
from tidelog.engine.heeded import known_of
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import Partition
from tidelog.errors import TopicRecreated
from tidelog.postgres import generations, rebuilds
from tidelog.postgres.bulk_store import connect, errors
from tidelog.postgres.generation_store import GenerationStore
from tidelog.postgres.migrations import migrate
from tidelog.postgres.rebuilds import Refused, Unfinished
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.sql_store import create_statements
from tidelog.postgres.switch import behind, switch
from tidelog.postgres.tables import Generation, ReadModelTable
from tidelog.rebuild.feeding import feed, heed_here
from tidelog.rebuild.loading import ROWS_MAX, LoadShard, shards_for
from tidelog.rebuild.site import Report, Watch, partitions_of
from tidelog.rebuild.verify import Proof, verify
from tidelog.rebuild.workers import Workers, World

PASSES_MAX = 4
"""How often the bulk load goes on to what has come meanwhile, before the projectors take over."""
PASS_EVENTS_MIN = 5_000
"""A shorter stretch than this is left to the projectors."""
FED_WAIT_S = 4.0
"""How long a generation that is behind may stand still before we feed it ourselves, in seconds."""
WATCH_S = 0.1
SWITCH_TIMEOUT_S = 60.0
SWITCH_PAUSE_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What a rebuild came to. `load_seconds` is the bulk load alone."""

    generation: Generation
    events: int
    seconds: float
    load_seconds: float
    switched: bool
    proof: Proof | None


@dataclass(frozen=True, kw_only=True)
class MakeIndex:
    """The task of making one index of a new generation, beside its others."""

    generation: Generation
    statement: sql.Composed | sql.SQL

    def run(self, world: World, _report: Report) -> None:
        """Make it; where it was made before, nothing."""
        name = f"tidelog-index-{self.generation.table}"
        with closing(connect(world.site.dsn, name)) as connection, errors(self.generation):
            connection.execute(self.statement)


class Rebuild:
    """One run of the rebuild of one projection."""

    def __init__(
        self, world: World, *, workers: Workers, watch: Watch, rows_max: int = ROWS_MAX
    ) -> None:
        self._world = world
        self._rows_max = rows_max
        self._workers = workers
        self._watch = watch
        self._schema = world.site.schema
        self._projection: AnyProjection = world.site.projection(world.projection)

    def run(self, *, switch_over: bool = True, prove: bool = True) -> Rebuilt:
        """Build what is not built yet, and let it serve.

        Raises Refused where somebody else works on the projection, and Interrupted where a Ctrl-C
        came. A proof that finds a difference is given back, and nothing is switched.
        """
        began = time.monotonic()
        with session(self._world, "rebuild") as connection:
            topics = self._world.site.topics(self._projection)
            found = self._resume(connection, topics) or self._begin(connection, topics)
            events, load_seconds = 0, 0.0
            if found.status == "loading":
                events = self._load(connection, found, topics)
                load_seconds = time.monotonic() - began
            proof, switched = self._finish(connection, found.generation, topics, prove, switch_over)
        return Rebuilt(
            generation=found.generation,
            events=events,
            seconds=time.monotonic() - began,
            load_seconds=load_seconds,
            switched=switched,
            proof=proof,
        )

    # --- beginning --------------------------------------------------------------------------

    def _resume(
        self, connection: Connection[Any], topics: Mapping[str, TopicInfo]
    ) -> Unfinished | None:
        """The rebuild that was begun, if it is of the definition that is declared now."""
        found = rebuilds.unfinished(connection, self._schema, self._world.projection)
        if found is None:
            return None
        known = {
            each.generation: each.definition
            for each in generations.registered(connection, self._schema, self._world.projection)
        }
        if known.get(found.generation) != definition_hash(self._projection):
            self._watch.note(
                f"{found.generation.table} was begun with another definition: it is dropped."
            )
            with connection.transaction():
                generations.drop(connection, self._schema, found.generation)
            return None
        stored = rebuilds.topic_ids(connection, self._schema, found.generation)
        for context, topic in topics.items():
            if stored.get(context) != topic.id:
                raise TopicRecreated(
                    f"The events topic of {context} was made again since {found.generation.table} "
                    f"was begun. Restore it, or run rebuild {self._world.projection} --cancel."
                )
        self._watch.note(
            f"going on with {found.generation.table}, begun {found.started_at:%Y-%m-%d %H:%M:%S %Z}"
        )
        return found

    def _begin(self, connection: Connection[Any], topics: Mapping[str, TopicInfo]) -> Unfinished:
        name, schema = self._world.projection, self._schema
        with connection.transaction():
            number = generations.next_generation(connection, schema, name)
            generation = Generation(name, self._projection.version, number)
            shards = self._shards(topics, self._workers.count)
            generations.register(
                connection,
                schema,
                generation,
                serving=False,
                state="loading",
                definition=definition_hash(self._projection),
            )
            heeded = known_of(self._world.decisions)
            rebuilds.begin(connection, schema, generation, shards, topics, heeded)
            connection.execute(table_statements(self._projection, generation, schema)[0])
        found = rebuilds.unfinished(connection, schema, name)
        assert found is not None and found.generation == generation, "it has just been noted"
        return found

    def _shards(self, topics: Mapping[str, TopicInfo], at_least: int) -> list[Shard]:
        return shards_for(self._projection, partitions_of(dict(topics)), at_least)

    # --- loading ----------------------------------------------------------------------------

    def _load(
        self, connection: Connection[Any], found: Unfinished, topics: Mapping[str, TopicInfo]
    ) -> int:
        """Load in bulk up to the present, make the indexes, and hand over to the projectors."""
        generation, schema = found.generation, self._schema
        shards = self._shards(topics, found.shards)
        assert len(shards) == found.shards, "the plan of a rebuild stays as it was begun"
        events = 0
        for number in range(PASSES_MAX):
            read = self._load_pass(connection, generation, shards, number == 0)
            events += read
            if read < PASS_EVENTS_MIN:
                break
        with errors(generation), connection.transaction():
            ends = self._reached(connection, generation)
            rebuilds.hand_over(connection, schema, generation, ends)
            generations.set_state(connection, schema, generation, "live")
            rebuilds.set_status(connection, schema, generation, "catching-up")
        return events

    def _load_pass(
        self,
        connection: Connection[Any],
        generation: Generation,
        shards: list[Shard],
        first: bool,
    ) -> int:
        """Bring every shard to the present end of the log; how many events that were."""
        before = rebuilds.shard_progress(connection, self._schema, generation)
        targets = self._world.site.ends(sorted({at for _, at in before}))
        todo = [shard for shard in shards if missing(shard, before, targets)]
        total = sum(missing(shard, before, targets) for shard in todo)
        rebuilds.set_targets(connection, self._schema, generation, targets)
        self._watch.phase("load" if first else "load on", total)
        self._workers.run(
            self._world,
            [
                LoadShard(
                    generation=generation.generation,
                    shard=shard,
                    targets=targets,
                    rows_max=self._rows_max,
                )
                for shard in todo
            ],
            self._watch.advance,
        )
        read = events_between(before, targets)
        rebuilds.set_status(connection, self._schema, generation, "loading", read)
        if first:
            self._watch.phase("indexes", None)
            statements = table_statements(self._projection, generation, self._schema)[1:]
            indexes = [MakeIndex(generation=generation, statement=each) for each in statements]
            self._workers.run(self._world, indexes, self._watch.advance)
            table = sql.Identifier(self._schema, generation.table)
            connection.execute(sql.SQL("ANALYZE {}").format(table))
        return read

    def _reached(
        self, connection: Connection[Any], generation: Generation
    ) -> dict[Partition, Progress]:
        reached: dict[Partition, Progress] = {}
        found = rebuilds.shard_progress(connection, self._schema, generation)
        for (_, at), progress in found.items():
            assert reached.setdefault(at, progress) == progress, f"the shards differ at {at}"
        return reached

    # --- from loaded to serving -------------------------------------------------------------

    def _finish(
        self,
        connection: Connection[Any],
        generation: Generation,
        topics: Mapping[str, TopicInfo],
        prove: bool,
        switch_over: bool,
    ) -> tuple[Proof | None, bool]:
        """Catch up, prove, switch: the proof, and whether it serves now."""
        schema = self._schema
        self._world = self._world.renewed()
        self.catch_up(connection, generation, topics)
        proof = None
        if prove:
            # What was decided while it was built is proved as well.
            self._world = self._world.renewed()
            heed_here(self._world, generation)
            rebuilds.set_status(connection, schema, generation, "verifying")
            proof = verify(self._world, generation, workers=self._workers, watch=self._watch)
            if not proof.equal:
                return proof, False
        if not switch_over:
            return proof, False
        switch_to(
            connection,
            schema,
            generation,
            self._watch,
            lambda: self.catch_up(connection, generation, topics),
        )
        rebuilds.set_status(connection, schema, generation, "switched")
        return proof, True

    def catch_up(
        self,
        connection: Connection[Any],
        generation: Generation,
        topics: Mapping[str, TopicInfo],
    ) -> None:
        """Return once the generation is where the serving one was a moment ago.

        The projectors feed it; where none does, it is fed from here.
        """
        lacking = lag_behind_serving(connection, self._schema, generation)
        self._watch.phase("catch up", lacking or None)
        moved_at = time.monotonic()
        while lacking:
            if time.monotonic() - moved_at > FED_WAIT_S:
                self._watch.note(f"no projector feeds {generation.table}: feeding it from here")
                feed(self._world, generation.generation, topics)
            else:
                time.sleep(WATCH_S)
            now = lag_behind_serving(connection, self._schema, generation)
            if now != lacking:
                self._watch.advance(max(lacking - now, 0))
                moved_at = time.monotonic()
            lacking = now


def cancel(world: World) -> Generation:
    """Drop the rebuild that has not ended. Refused where there is none, or where it runs."""
    with session(world, "cancel") as connection:
        found = rebuilds.unfinished(connection, world.site.schema, world.projection)
        if found is None:
            raise Refused(f"no rebuild of {world.projection} is under way.")
        with connection.transaction():
            generations.drop(connection, world.site.schema, found.generation)
        return found.generation


# --- parts that rollback and others use, too ------------------------------------------------


@contextmanager
def session(world: World, purpose: str) -> Iterator[Connection[Any]]:
    """A connection that holds the projection's administrative lock. Refused where another does."""
    who = f"{purpose} {world.projection} by {socket.gethostname()[:20]}:{os.getpid()}"
    with closing(connect(world.site.dsn, f"tidelog {who}")) as connection:
        name = Generation(world.projection, 0, 0)
        with errors(name):
            with connection.transaction():
                migrate(connection, world.site.schema)
            with rebuilds.alone(connection, world.site.schema, world.projection):
                yield connection


def switch_to(
    connection: Connection[Any],
    schema: str,
    generation: Generation,
    watch: Watch,
    catch_up: Callable[[], None],
) -> None:
    """Let the generation serve, trying again where queries or writers are in the way.

    Refused where it could not be done within SWITCH_TIMEOUT_S; then nothing has changed.
    """
    watch.phase("switch", None)
    deadline = time.monotonic() + SWITCH_TIMEOUT_S
    reason = switch(connection, schema, generation)
    while reason is not None:
        if time.monotonic() > deadline:
            raise Refused(
                f"{generation.table} could not be switched to in {SWITCH_TIMEOUT_S:g} s: {reason}. "
                "Nothing has changed; run the command again once they are through."
            )
        watch.note(f"switching: {reason}; trying again")
        time.sleep(SWITCH_PAUSE_S)
        catch_up()
        reason = switch(connection, schema, generation)


def lag_behind_serving(connection: Connection[Any], schema: str, generation: Generation) -> int:
    """How many events a generation lacks of those that the serving one has."""
    known = generations.registered(connection, schema, generation.projection)
    now_serving = generations.serving(known)
    if now_serving is None or now_serving.generation == generation:
        return 0
    old = generations.positions(connection, schema, now_serving.generation)
    return sum(behind(generations.positions(connection, schema, generation), old).values())


def table_statements(
    projection: AnyProjection, generation: Generation, schema: str
) -> list[sql.Composed | sql.SQL]:
    """The statement that makes the table, then those that make its indexes."""
    if isinstance(projection, SqlProjection):
        store = GenerationStore(generation, "", dsn="", schema=schema)
        return [*create_statements(projection, store)]
    table = ReadModelTable(projection, generation.generation, schema)
    return [sql.SQL(statement) for statement in table.create_statements()]


def missing(
    shard: Shard,
    progress: Mapping[tuple[int, Partition], Progress],
    targets: Mapping[Partition, int],
) -> int:
    """How many events the shard has still to read."""
    return sum(max(targets[at] - progress[shard.number, at].sequence, 0) for at in shard.partitions)


def events_between(
    progress: Mapping[tuple[int, Partition], Progress], targets: Mapping[Partition, int]
) -> int:
    """How many events of the log lie there, each counted once however many shards read it."""
    least: dict[Partition, int] = {}
    for (_, at), each in progress.items():
        least[at] = min(least.get(at, each.sequence), each.sequence)
    return sum(max(targets[at] - sequence, 0) for at, sequence in least.items())
