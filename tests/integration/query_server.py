"""A query service on a real server and a free port, over read models that tests write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import psycopg
from prometheus_client import CollectorRegistry

from query_service.app import build
from tests.fixtures.servers import Database
from tests.integration.command_server import serving
from tests.log_writer import until
from tidelog import Projection, Row
from tidelog.definition import definition_hash
from tidelog.engine.folding import Changes, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Step, TopicInfo, Written
from tidelog.engine.reading import Partition
from tidelog.postgres.generations import register
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.postgres.tables import Generation
from tidelog.settings import Settings

PARTITIONS = 4
PLACED = datetime(2026, 7, 31, 12, 30, 15, 123456, tzinfo=UTC)
CHANGED = datetime(2026, 7, 31, 12, 31, 0, tzinfo=UTC)


class ReadModel:
    """Writes rows of one projection as its projector does."""

    def __init__(
        self, database: Database, projection: Projection[Any, Any], generation: int = 1
    ) -> None:
        (self._context,) = projection.contexts
        self._key = projection.key
        self._store = PostgresProjectionStore(
            projection, dsn=database.dsn, schema=database.schema, generation=generation
        )
        self._store.open({self._context.name: TopicInfo("topic", PARTITIONS)})

    def write(self, row: Row, version: int, partition: int, placed: datetime = PLACED) -> str:
        """Write a row at the partition's next position; the position."""
        at = Partition(self._context.name, partition)
        before = self._store.progress()[at]
        position = f"{self._context.name}:{partition}:{before.sequence + 1}"
        return self._apply(at, [StoredRow(row, version, position, placed, CHANGED)], position)

    def write_all(self, rows: Sequence[tuple[Row, datetime]], partition: int = 0) -> str:
        """Write rows, each with the time at which it began; the position after them."""
        at = Partition(self._context.name, partition)
        position = f"{self._context.name}:{partition}:{self._store.progress()[at].sequence + 1}"
        stored = [StoredRow(row, 1, position, placed, placed) for row, placed in rows]
        return self._apply(at, stored, position)

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def _apply(self, at: Partition, rows: Sequence[StoredRow], position: str) -> str:
        before = self._store.progress()[at]
        after = Progress(before.sequence + 1, before.offset + 1)
        stored = {getattr(row.row, self._key): row for row in rows}
        step = Step(
            before={at: before},
            after={at: after},
            parked=[],
            facts=[],
            touched=[*stored],
            keys=[],
            shared=False,
            fold=lambda _, __: Changes(stored, [], [], {}),
        )
        written = self._store.apply(step)
        assert isinstance(written, Written), "nobody else writes this read model"
        return position


@contextmanager
def other_generation(
    database: Database, projection: Projection[Any, Any], number: int
) -> Iterator[ReadModel]:
    """A further generation of a read model, fed and not served."""
    generation = Generation(projection.name, projection.version, number)
    definition = definition_hash(projection)
    with psycopg.connect(database.dsn) as connection:
        register(
            connection,
            database.schema,
            generation,
            serving=False,
            state="live",
            definition=definition,
        )
    model = ReadModel(database, projection, number)
    yield model
    model.close()


@dataclass
class QueryServer:
    """The running query service and the read models behind it, by name."""

    client: httpx2.Client
    models: Mapping[str, ReadModel]

    def get(self, path: str, **headers: str) -> httpx2.Response:
        """GET; `If_None_Match` stands for the header If-None-Match."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(path, headers=named)

    def pages(
        self, path: str, token: str, between: Callable[[], object] = lambda: None
    ) -> Iterator[list[dict[str, Any]]]:
        """The pages of a list, from link to link; `between` is called after each."""
        while path:
            answer = self.get(path, Consistency_Token=token)
            assert answer.status_code == 200, answer.text
            cursor = answer.json()["next_cursor"]
            link = answer.headers.get("link", "")
            assert (cursor is None) == (link == ""), "the cursor and the link say the same"
            yield answer.json()["items"]
            between()
            path = link.partition(">")[0].lstrip("<")


@contextmanager
def query_server(database: Database, *projections: Projection[Any, Any]) -> Iterator[QueryServer]:
    """The query service over empty tables of these projections, until the end of the block."""
    models = {each.name: ReadModel(database, each) for each in projections}
    settings = Settings(
        postgres_dsn=database.dsn, postgres_schema=database.schema, partitions=PARTITIONS
    )
    app = build(settings, CollectorRegistry())
    with serving(app) as url, httpx2.Client(base_url=url, trust_env=False) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the queries are ready")
        yield QueryServer(client, models)
    for model in models.values():
        model.close()


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the name of the problem that was answered."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")
