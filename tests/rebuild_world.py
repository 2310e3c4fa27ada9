"""A log, a registry and a database for the tests of rebuild, verify and replay."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, until
from tests.read_side import COUNTERS, Added, Cleared, Noted
from tests.service_process import service
from tidelog import Event, Projection
from tidelog.codec import Codec
from tidelog.definitions import load_projections
from tidelog.engine.reading import EventReader
from tidelog.engine.retrying import Outcome, Retrier
from tidelog.kafka.span_facts import SpanFacts
from tidelog.kafka.spans import SpanReader
from tidelog.postgres.parked_keys import PostgresParkedStore
from tidelog.projector import Projectors
from tidelog.rebuild.loading import ROWS_MAX
from tidelog.rebuild.rebuild import Rebuild, Rebuilt
from tidelog.rebuild.site import Quiet, Site
from tidelog.rebuild.verify import Proof, serving_generation, verify
from tidelog.rebuild.workers import Workers, World
from tidelog.registry import RegistryClient
from tidelog.settings import Settings

NAME = "tests.rebuild_projections"


class Notes(Quiet):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []

    def phase(self, name: str, events: int | None) -> None:
        """Keep its name."""
        self.phases.append(name)

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


@dataclass
class BulkWorld:
    """What the tests do with read models."""

    site: Site
    database: Database
    codec: Codec
    log: LogWriter
    workers: Workers
    chosen: random.Random = field(default_factory=lambda: random.Random(7))

    def world(self, name: str = "counter", projections: str = "PROJECTIONS") -> World:
        """The projection of this name, of one of the lists."""
        site = Site(**{**vars(self.site), "projections": f"{NAME}:{projections}"})
        return World(site=site, projection=name)

    def rebuild(
        self, name: str = "counter", projections: str = "PROJECTIONS", **options: Any
    ) -> tuple[Rebuilt, Notes]:
        """Rebuild it with two workers."""
        notes, rows_max = Notes(), options.pop("rows_max", ROWS_MAX)
        world = self.world(name, projections)
        job = Rebuild(world, workers=self.workers, watch=notes, rows_max=rows_max)
        return job.run(**options), notes

    def verify(
        self, name: str = "counter", projections: str = "PROJECTIONS", **options: Any
    ) -> Proof:
        """Prove the generation that serves."""
        world = self.world(name, projections)
        generation = serving_generation(world)
        return verify(world, generation, workers=self.workers, watch=Quiet(), **options)

    def retry(self, name: str, key: str) -> tuple[Outcome, int]:
        """Retry a parked key of the first generation as often as it gets on; where it stands."""
        projection = self.site.projection(name)
        assert isinstance(projection, Projection)
        reader = SpanReader(
            bootstrap_servers=self.site.bootstrap_servers,
            topic_prefix=self.site.topic_prefix,
            client_id="test-retrier",
        )
        parked = PostgresParkedStore(
            projection, dsn=self.site.dsn, schema=self.site.schema, generation=1
        )
        with closing(reader), closing(parked):
            events = EventReader(projection.contexts, self.codec)
            log = SpanFacts(reader, events, threading.Event())
            retrier = Retrier(projection, parked, log, {})
            done = retrier.retry(key)
            while done.outcome is Outcome.MOVED:
                done = retrier.retry(key)
        assert done.halt is not None
        return done.outcome, done.halt.fact.sequence

    def append_some(self, events: int, keys: int = 40, failing: float = 0.0) -> None:
        """Append random events, a hundred to a transaction, one in ten transactions aborted."""
        some = [self._event(keys, failing) for _ in range(events)]
        for start in range(0, events, 100):
            if self.chosen.random() < 0.1:
                self.log.abort(Added(counter_id="aborted", by=1))
            self.log.append(*some[start : start + 100])

    def _event(self, keys: int, failing: float) -> Event:
        key = f"c-{self.chosen.randrange(keys)}"
        dice = self.chosen.random()
        if dice < failing:
            return Added(counter_id=key, by=-1)
        if dice < 0.05:
            return Cleared(counter_id=key)
        if dice < 0.25:
            return Noted(counter_id=key)
        return Added(counter_id=key, by=self.chosen.randrange(100))

    @contextmanager
    def projectors(self, projections: str = "PROJECTIONS") -> Iterator[Projectors]:
        """Projectors at work in their threads."""
        settings = Settings(
            kafka_bootstrap_servers=self.site.bootstrap_servers,
            topic_prefix=self.site.topic_prefix,
            postgres_dsn=self.site.dsn,
            postgres_schema=self.site.schema,
        )
        running = Projectors(
            load_projections(f"{NAME}:{projections}"),
            settings,
            codec=self.codec,
            prepare=lambda: None,
        )
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            yield running
        finally:
            running.stop()
            thread.join(30)
            assert not thread.is_alive(), "projectors stop within their bounds"

    def caught_up(self, name: str = "counter", generation: int | None = None) -> None:
        """Wait until a generation (the serving one) is at the end of the log."""
        ends = dict(self.log.positions())

        def at_the_end() -> bool:
            which = "p.serving" if generation is None else f"p.generation = {generation}"
            found = self.query(
                "SELECT o.partition, o.sequence FROM {s}.projections AS p "
                "JOIN {s}.projection_positions AS o ON o.projection = p.name "
                "AND o.version = p.version AND o.generation = p.generation "
                f"WHERE p.name = '{name}' AND {which} AND o.sequence > 0"
            )
            return dict(found) == ends

        until(at_the_end, f"{name} reaches the end", timeout_s=180)

    def query(self, statement: str) -> list[Any]:
        """What SQL finds in the test's schema (as `{s}`); nothing where there is no table yet."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            text = statement.replace("{s}", self.database.schema).encode()
            try:
                cursor = connection.execute(text)
            except psycopg.errors.UndefinedTable:
                return []
            return cursor.fetchall() if cursor.description else []

    def view(self, name: str = "counter") -> str:
        """The table that the view shows."""
        ((table,),) = self.query(
            "SELECT table_name FROM information_schema.view_table_usage "
            f"WHERE view_schema = '{self.database.schema}' AND view_name = '{name}'"
        )
        return str(table)

    def tables(self) -> Sequence[str]:
        """The tables of read models."""
        found = self.query(
            "SELECT tablename FROM pg_tables WHERE schemaname = "
            f"'{self.database.schema}' AND tablename LIKE '%\\_\\_%' ORDER BY 1"
        )
        return [name for (name,) in found]


@pytest.fixture(scope="session")
def bulk_registry(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a registry that is a process, as workers need it. Each test has its own topics."""
    settings = {"kafka_bootstrap_servers": kafka, "topic_prefix": f"r{uuid.uuid4().hex[:12]}."}
    folder = tmp_path_factory.mktemp("registry")
    with service("tidelog.registry", folder, settings, wait_until_ready=False) as registry:
        until(lambda: registry.get("/subjects"), "the registry answers", timeout_s=180)
        yield registry.url


@pytest.fixture(scope="session")
def bulk_workers() -> Iterator[Workers]:
    """Two processes, for one test after the other."""
    with closing(Workers(2)) as workers:
        yield workers


@pytest.fixture
def bulk(
    kafka: str, bulk_registry: str, bulk_workers: Workers, namespace: str, database: Database
) -> Iterator[BulkWorld]:
    """A log, empty yet, of which nothing is projected."""
    with closing(RegistryClient(bulk_registry)) as client:
        codec = Codec([COUNTERS], client, namespace)
        codec.prepare()
        site = Site(
            bootstrap_servers=kafka,
            registry_url=bulk_registry,
            dsn=database.dsn,
            schema=database.schema,
            topic_prefix=namespace,
            projections=f"{NAME}:PROJECTIONS",
        )
        log = LogWriter(kafka, COUNTERS, codec, topic_prefix=namespace)
        yield BulkWorld(site, database, codec, log, bulk_workers)
