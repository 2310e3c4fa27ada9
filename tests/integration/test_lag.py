"""Given a log and positions, the lag is told exactly, whether or not a projector runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from projectors import PROJECTIONS as SHOP
from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, read_log, until
from tests.read_side import CODEC, COUNTERS, Added, Cleared, Counter
from tests.service_process import service
from tidelog import Projection
from tidelog.engine.folding import Changes
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Step, TopicInfo, Written
from tidelog.engine.reading import Partition
from tidelog.errors import Unavailable
from tidelog.kafka.ends import LogEnds
from tidelog.kafka.topics import admin_client, topic_ids
from tidelog.lag import GenerationLag
from tidelog.lag_observer import LagObserver
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.settings import Settings
from tidelog.wire import read_event_headers


def project(row: Counter | None, event: Added | Cleared) -> Counter | None:
    """A sum."""
    if isinstance(event, Cleared):
        return None
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


counter = Projection(
    name="counter", version=1, row=Counter, key="counter_id", contexts=[COUNTERS], evolve=project
)
other = Projection(
    name="other", version=1, row=Counter, key="counter_id", contexts=[COUNTERS], evolve=project
)
AT = Partition("counters", 3)
HOUR = timedelta(hours=1)


@dataclass
class World:
    """A log, a read model whose positions the test moves, and an observer."""

    settings: Settings
    log: LogWriter
    key: str
    observers: list[LagObserver] = field(default_factory=list)

    def append(self, events: int) -> None:
        """Events of partition 3, each followed by one that is aborted."""
        for n in range(events):
            self.log.append(Added(counter_id=self.key, by=n))
            self.log.abort(Added(counter_id=self.key, by=n))

    def offsets(self) -> dict[int, tuple[int, datetime]]:
        """Offset and time of each sequence of partition 3."""
        records = read_log(self.settings.kafka_bootstrap_servers, self.log.topic, 4)[3]
        found = [(record, read_event_headers(record.headers)) for record in records]
        return {
            metadata.sequence: (record.offset, datetime.fromisoformat(metadata.recorded_at))
            for record, metadata in found
        }

    def store(self) -> PostgresProjectionStore:
        store = PostgresProjectionStore(
            counter, dsn=self.settings.postgres_dsn, schema=self.settings.postgres_schema
        )
        admin = admin_client(self.settings.kafka_bootstrap_servers)
        topic_id = topic_ids(admin, [self.log.topic])[self.log.topic]
        store.open({"counters": TopicInfo(topic_id, 4)})
        return store

    def variables(self) -> dict[str, str]:
        """The settings of a process that is to see this world."""
        names = ("kafka_bootstrap_servers", "postgres_dsn", "postgres_schema", "topic_prefix")
        return {
            **{name: getattr(self.settings, name) for name in names},
            "projections": "tests.integration.test_lag:PROJECTIONS",
        }

    def look(self, *projections: Projection[Any, Any]) -> list[GenerationLag]:
        observer = LagObserver(projections or (counter,), self.settings, cache_s=0)
        self.observers.append(observer)
        return observer.look()


@pytest.fixture
def world(kafka: str, namespace: str, database: Database) -> Iterator[World]:
    settings = Settings(
        kafka_bootstrap_servers=kafka,
        topic_prefix=namespace,
        postgres_dsn=database.dsn,
        postgres_schema=database.schema,
    )
    log = LogWriter(kafka, COUNTERS, CODEC, topic_prefix=namespace)
    key = next(f"c-{n}" for n in range(100) if log.partition(f"c-{n}") == 3)
    world = World(settings, log, key)
    yield world
    for observer in world.observers:
        observer.close()


def move(store: PostgresProjectionStore, sequence: int, offset: int) -> None:
    """Advance partition 3, as a projector that folded up to there."""
    step = Step(
        before={AT: store.progress()[AT]},
        after={AT: Progress(sequence, offset)},
        parked=[],
        facts=[],
        touched=[],
        keys=[],
        shared=False,
        fold=lambda *_: Changes({}, [], [], {}),
    )
    assert isinstance(store.apply(step), Written)


def test_the_lag_is_exact_in_records_and_seconds_also_when_no_projector_runs(world: World) -> None:
    world.append(30)
    places = world.offsets()
    world.log.append_raw(3, b"not ours")
    store = world.store()
    move(store, 10, places[10][0])

    (fed,) = world.look()
    store.close()
    (alone,) = world.look()

    assert (fed.records, alone.records) == (20, 20)
    age = (datetime.now(UTC) - places[11][1]).total_seconds()
    assert age - 5 < alone.seconds <= age
    assert alone.partitions[3].end == 30
    assert (fed.status, alone.status) == ("live", "stopped")


def test_a_read_model_at_the_end_misses_nothing(world: World) -> None:
    world.append(3)
    store = world.store()
    move(store, 3, world.offsets()[3][0])

    (found,) = world.look()
    store.close()

    assert (found.records, found.seconds, found.status) == (0, 0.0, "live")


def test_the_lag_is_told_anew_as_log_and_positions_move(world: World) -> None:
    store = world.store()
    observer = LagObserver([counter], world.settings, cache_s=0)
    told = []
    for sequence in (2, 4, 6):
        world.append(2)
        told.append(observer.look()[0].records)
        move(store, sequence, world.offsets()[sequence][0])
        told.append(observer.look()[0].records)
    observer.close()
    store.close()

    assert told == [2, 0, 2, 0, 2, 0]


def test_a_projection_that_never_ran_misses_the_whole_log(world: World) -> None:
    world.append(5)
    world.store().close()

    found = {each.stored.projection: each for each in world.look(counter, other)}

    assert {name: each.records for name, each in found.items()} == {"counter": 5, "other": 5}
    assert found["other"].item()["table"] is None
    assert found["other"].status == "stopped"


def test_before_any_projector_made_the_tables_everything_is_missing(world: World) -> None:
    world.append(5)

    (found,) = world.look()

    assert (found.records, found.status) == (5, "stopped")


def test_another_declared_version_asks_for_a_rebuild(world: World) -> None:
    world.store().close()
    newer = Projection(
        name="counter",
        version=2,
        row=Counter,
        key="counter_id",
        contexts=[COUNTERS],
        evolve=project,
    )

    (found,) = world.look(newer)

    assert found.status == "needs-rebuild"


def test_what_stands_for_long_behind_old_events_is_stalled_and_named(world: World) -> None:
    world.append(2)
    store = world.store()
    with psycopg.connect(world.settings.postgres_dsn) as connection:
        schema = world.settings.postgres_schema
        connection.execute(
            f"UPDATE {schema}.projection_positions SET advanced_at = %s".encode(),
            (datetime.now(UTC) - HOUR,),
        )
    (young,) = world.look()
    later = LagObserver([counter], world.settings, now=lambda: datetime.now(UTC) + HOUR)
    (found,) = later.look()
    later.close()
    store.close()

    assert young.status == "live"
    assert found.status == "stalled"
    assert [str(each.partition) for each in found.stalled] == ["counters:3"]
    assert "counter__v1_g1 stalls at counters:3:0: 2 events wait" in found.problems()[0]


def test_an_open_transaction_is_seen_to_hold_readers_until_it_ends(world: World) -> None:
    world.append(2)
    ends = LogEnds(
        bootstrap_servers=world.settings.kafka_bootstrap_servers,
        topic_prefix=world.settings.topic_prefix,
    )
    other = Producer(
        {
            "bootstrap.servers": world.settings.kafka_bootstrap_servers,
            "transactional.id": f"{world.settings.topic_prefix}other",
        }
    )
    other.init_transactions(30)
    ends.sequences([AT])
    assert ends.held_s() == {}

    other.begin_transaction()
    other.produce(world.log.topic, b"half", partition=3)
    other.flush(30)
    assert ends.sequences([AT]) == {AT: 2}
    first = ends.held_s()[AT]
    assert ends.sequences([AT]) == {AT: 2}
    assert ends.held_s()[AT] > first >= 0

    other.abort_transaction(30)
    until(lambda: ends.sequences([AT]) == {AT: 2} and not ends.held_s(), "nobody is held")
    ends.close()


def test_an_unreachable_part_is_said_and_nothing_is_guessed(world: World) -> None:
    world.store().close()
    for name, nowhere in (
        ("kafka_bootstrap_servers", "127.0.0.1:1"),
        ("postgres_dsn", "postgresql://x@127.0.0.1:1/x"),
    ):
        observer = LagObserver([counter], world.settings.model_copy(update={name: nowhere}))
        with pytest.raises(Unavailable):
            observer.look()
        observer.close()


def test_the_command_line_says_it_in_json(world: World) -> None:
    world.append(3)
    world.store().close()
    variables = {f"TIDELOG_{name.upper()}": value for name, value in world.variables().items()}
    done = subprocess.run(
        [sys.executable, "-m", "tidelog.cli", "lag", "--json", "--window", "0"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    item = next(item for item in json.loads(done.stdout)["items"] if item["name"] == "counter")

    assert done.returncode == 1, "a read model that serves and that nobody feeds"
    check_item(item)
    assert item["trend"] == "steady"


def test_the_query_service_says_it_though_no_projector_runs(world: World, tmp_path: Path) -> None:
    world.append(3)
    world.store().close()
    with service("query_service", tmp_path, world.variables()) as queries:
        answer = queries.get("/projections")
        assert answer is not None
        wrong = queries.get("/projections?name=counter")
        assert wrong is not None

    assert (answer.status_code, wrong.status_code) == (200, 400)
    assert answer.json()["next_cursor"] is None
    check_item(next(item for item in answer.json()["items"] if item["name"] == "counter"))


def check_item(item: Mapping[str, Any]) -> None:
    """What the contract says about the counter, three events behind and fed by nobody."""
    assert (item["name"], item["version"], item["generation"]) == ("counter", 1, 1)
    assert item["table"] == "counter__v1_g1"
    assert (item["lag"], item["status"]) == (3, "stopped")
    assert item["positions"] == {f"counters:{number}": 0 for number in range(4)}
    assert item["lag_seconds"] > 0
    (behind,) = [each for each in item["partitions"] if each["lag"]]
    assert (behind["partition"], behind["position"], behind["end"]) == ("counters:3", 0, 3)


# The query service wants the read models that it shows; none of them ever ran.
PROJECTIONS = (*SHOP, counter)
