"""A log with decisions beside it, and read models that fail where a file says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schemas.operations import OPERATIONS, OperatorDecided
from tests.fixtures.servers import Database
from tests.integration.parking_process import PROJECTIONS, codec_of, threads_of
from tests.log_writer import LogWriter, read_log, until
from tests.read_side import COUNTERS, Added
from tidelog import Position, Projection
from tidelog.definitions import AnyProjection
from tidelog.engine.folding import Decisions, Folder, StoredRow
from tidelog.engine.heeded import covers, known_of
from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Partition
from tidelog.kafka.decisions import DecisionLog
from tidelog.parking import target_of
from tidelog.postgres.parked_board import ParkedBoard
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.settings import Settings

ROOT = Path(__file__).parents[2]


@dataclass
class World:
    """A log with decisions beside it, a database, and the values that cannot be folded now."""

    settings: Settings
    broken: Path
    log: LogWriter
    decisions: LogWriter

    def break_on(self, *values: int) -> None:
        """From now on `evolve` fails for these values, and for no others."""
        fresh = self.broken.with_suffix(".new")
        fresh.write_text(" ".join(map(str, values)))
        fresh.replace(self.broken)

    def add(self, key: str, *values: int) -> list[Position]:
        """Events of one counter."""
        return self.log.append(*(Added(counter_id=key, by=value) for value in values))

    def decide(
        self,
        projection: AnyProjection,
        position: Position,
        replacement: str | None = None,
    ) -> None:
        """A person's decision about an event, as the command service records it."""
        self.decisions.append(
            OperatorDecided(
                target=target_of(projection.name, projection.version, position),
                kind="projection",
                projection=projection.name,
                version=projection.version,
                position=str(position),
                decision="discard" if replacement is None else "edit",
                event_type=None if replacement is None else "Added",
                replacement=replacement,
                reason="a test",
                operator="ada",
            )
        )

    def query(self, statement: str) -> list[Any]:
        """What SQL finds in the test's schema (as `{s}`)."""
        with psycopg.connect(self.settings.postgres_dsn, autocommit=True) as connection:
            text = statement.format(s=self.settings.postgres_schema)
            return connection.execute(text.encode()).fetchall()

    def parked(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Attempts and waiting events by projection and key."""
        if self.query("SELECT to_regclass('{s}.parked_keys') IS NULL") == [(True,)]:
            return {}
        found = self.query("SELECT projection, key, attempts, waiting FROM {s}.parked_keys")
        return {(name, key): (attempts, waiting) for name, key, attempts, waiting in found}

    def rows(self, projection: Projection[Any, Any]) -> dict[str, StoredRow]:
        """What the table holds."""
        store = PostgresProjectionStore(
            projection, dsn=self.settings.postgres_dsn, schema=self.settings.postgres_schema
        )
        try:
            return store.rows()
        finally:
            store.close()

    def folded(self, projection: Projection[Any, Any]) -> dict[str, StoredRow]:
        """The pure fold of the whole log and of the decisions, as a rebuild makes it."""
        codec = codec_of(self.settings.topic_prefix)
        folder = Folder(projection, self.decided(projection))
        log = {
            Partition(COUNTERS.name, number): records
            for number, records in enumerate(
                read_log(self.settings.kafka_bootstrap_servers, self.log.topic, self.log.partitions)
            )
        }
        reading = EventReader([COUNTERS], codec).read(log, dict.fromkeys(log, Progress()))
        touches, failure = folder.touches(reading.facts)
        assert failure is None
        changes = folder.fold(touches, {})
        assert not changes.parked
        return changes.upserts

    def decided(self, projection: Projection[Any, Any]) -> Decisions:
        """Every decision about the projection's events."""
        decisions = DecisionLog(
            bootstrap_servers=self.settings.kafka_bootstrap_servers,
            topic_prefix=self.settings.topic_prefix,
            codec=codec_of(self.settings.topic_prefix),
            contexts=(COUNTERS, OPERATIONS),
        )
        decisions.refresh()
        decisions.close()
        return decisions.decisions_for(projection.name, projection.version)

    def until_heeded(self) -> None:
        """Every decision that was made until now is heeded: what it changes is parked, or done."""
        for each in PROJECTIONS:
            wanted = known_of(self.decided(each))
            until(partial(self._heeds, each, wanted), f"{each.name} has heeded {wanted}", 120)

    def _heeds(self, projection: Projection[Any, Any], wanted: str) -> bool:
        found = self.query(
            f"SELECT heeded FROM {{s}}.projection_positions WHERE projection = '{projection.name}'"
        )
        return bool(found) and all(covers(heeded, wanted) for (heeded,) in found)

    def caught_up(self, projections: Sequence[AnyProjection] = PROJECTIONS) -> bool:
        """Whether each of these read models is at the end of the log."""
        if self.query("SELECT to_regclass('{s}.projection_positions') IS NULL") == [(True,)]:
            return False
        ends = {number: sequence for number, sequence in self.log.positions().items() if sequence}
        for each in projections:
            found = dict(
                self.query(
                    "SELECT partition, sequence FROM {s}.projection_positions "
                    f"WHERE projection = '{each.name}'"
                )
            )
            if any(found.get(number) != sequence for number, sequence in ends.items()):
                return False
        return True

    def until_caught_up(self, projections: Sequence[AnyProjection] = PROJECTIONS) -> None:
        until(partial(self.caught_up, projections), "the read models are at the end of the log", 60)

    def ask(self, projection: Projection[Any, Any], key: str) -> None:
        """A person asks for a retry; the retrier may have been first by itself."""
        board = ParkedBoard(dsn=self.settings.postgres_dsn, schema=self.settings.postgres_schema)
        woken = board.wake_key(projection.name, key)
        board.close()
        assert woken == 1 or (projection.name, key) not in self.parked()

    @contextmanager
    def running(self, projections: Sequence[AnyProjection] = PROJECTIONS) -> Iterator[None]:
        """Projectors and a retrier in this process."""
        both = threads_of(self.settings, projections)
        threads = [threading.Thread(target=each.run) for each in both]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for each in both:
                each.stop()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive(), "threads stop within their bounds"


@pytest.fixture
def world(
    kafka: str,
    namespace: str,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """A world of its own, which this process and those that it starts find in the environment."""
    codec = codec_of(namespace)
    broken = tmp_path / "broken"
    monkeypatch.setenv("BROKEN_VALUES", str(broken))
    broken.write_text("")
    settings = Settings(
        kafka_bootstrap_servers=kafka,
        topic_prefix=namespace,
        postgres_dsn=database.dsn,
        postgres_schema=database.schema,
        projection_batch_events_max=500,
    )
    return World(
        settings,
        broken,
        LogWriter(kafka, COUNTERS, codec, topic_prefix=namespace),
        LogWriter(kafka, OPERATIONS, codec, topic_prefix=namespace),
    )


class Process:
    """One projectors process, that may be killed and started again."""

    def __init__(self, world: World, folder: Path, number: int) -> None:
        self._settings = world.settings
        self._log = folder / f"parking-{number}.log"
        self._number = number
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        wanted = ("kafka_bootstrap_servers", "topic_prefix", "postgres_dsn", "postgres_schema")
        variables = {f"TIDELOG_{n.upper()}": str(getattr(self._settings, n)) for n in wanted}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.parking_process"],
                cwd=ROOT,
                env={**os.environ, **variables, "TIDELOG_INSTANCE": str(self._number)},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(20)
