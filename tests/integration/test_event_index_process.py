"""Given the shop's log on a real broker, when projectors write it down, then nothing differs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from schemas import CONTEXTS, ORDERS
from schemas.inventory import StockReceived
from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, read_log, until
from tests.service_process import ServiceProcess, service
from tests.shop_log import cancelled, placed
from tidelog.codec import Codec
from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.registry import RegistryClient

KILLS = 3


@dataclass
class Shop:
    """The log of each context, the processes over it, and the queries."""

    kafka: str
    database: Database
    codec: Codec
    logs: dict[str, LogWriter]
    projectors: ServiceProcess
    client: httpx2.Client

    def facts(self) -> list[Fact]:
        """Every event of the log, in the log's own order."""
        reader, facts = EventReader(CONTEXTS, self.codec), []
        for name in sorted(self.logs):
            log = self.logs[name]
            for number, records in enumerate(read_log(self.kafka, log.topic, log.partitions)):
                at = Partition(name, number)
                facts += reader.read({at: records}, {at: Progress()}).facts
        return facts

    def indexed(self) -> list[Any]:
        """Every row of the index, in the same order."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            return connection.execute(
                'SELECT context, partition, sequence, "offset", version, message_id, value '
                f"FROM {self.database.schema}.event_index "
                "ORDER BY context, partition, sequence".encode()
            ).fetchall()

    def get(self, path: str, token: str) -> Any:
        """GET, as soon as the read model holds what the token names."""
        more = "&" if "?" in path else "?"
        answer = self.client.get(f"{path}{more}wait_ms=10000", headers={"Consistency-Token": token})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def shop(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[Shop]:
    settings = {
        "kafka_bootstrap_servers": kafka,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "topic_prefix": namespace,
        "partitions": "4",
        "projection_batch_events_max": "50",
        "projections_only": "event_index,order_detail",
    }
    with ExitStack() as running:
        registry = running.enter_context(
            service("tidelog.registry", tmp_path, settings, wait_until_ready=False)
        )
        until(lambda: registry.get("/subjects"), "the registry answers")
        client = RegistryClient(registry.url)
        running.callback(client.close)
        codec = Codec(CONTEXTS, client, namespace)
        codec.prepare()
        logs = {
            each.name: LogWriter(kafka, each, codec, topic_prefix=namespace) for each in CONTEXTS
        }
        settings["registry_url"] = registry.url
        projectors = running.enter_context(service("projectors", tmp_path, settings))
        queries = running.enter_context(service("query_service", tmp_path, settings))
        asked = running.enter_context(
            httpx2.Client(base_url=queries.url, trust_env=False, timeout=30)
        )
        yield Shop(kafka, database, codec, logs, projectors, asked)


def test_killed_at_any_moment_the_index_ends_as_the_log(shop: Shop) -> None:
    dice = random.Random(3)
    for _ in range(KILLS):
        for _ in range(20):
            orders = [f"o-{dice.randrange(40)}" for _ in range(20)]
            shop.logs["orders"].append(*[cancelled(order_id) for order_id in orders])
            shop.logs["inventory"].append(StockReceived(sku=dice.choice("abc"), quantity=1))
        shop.projectors.kill()
        shop.projectors.start()

    facts = shop.facts()
    until(lambda: len(shop.indexed()) >= len(facts), "the index holds the log", timeout_s=90)
    assert shop.indexed() == [
        (*f.partition, f.sequence, f.offset, f.version, f.metadata.message_id, f.record.value)
        for f in facts
    ]


def test_history_time_travel_and_live_streams_tell_what_the_log_tells(shop: Shop) -> None:
    first, _, last = shop.logs["orders"].append(placed("o-1"), placed("o-2"), cancelled("o-1"))

    history = shop.get("/orders/o-1/history", str(last))["items"]
    assert [item["position"] for item in history] == [str(first), str(last)]
    assert shop.get("/orders/o-1?as_of=1", str(last))["status"] == "placed"
    assert shop.get("/orders/o-1?as_of=2", str(last)) == shop.get("/orders/o-1", str(last))
    listed = shop.get("/events?context=orders", str(last))["items"]
    assert [item["position"] for item in listed] == [
        f.position for f in shop.facts() if f.partition.context == ORDERS.name
    ]

    with shop.client.stream("GET", "/orders/o-1/live") as stream:
        lines = stream.iter_lines()
        shown = [line for line in _first(lines, 2) if line.startswith("id")]
        (new,) = shop.logs["orders"].append(cancelled("o-1"))
        shown += [line for line in _first(lines, 1) if line.startswith("id")]
    assert shown == [f"id: {position}" for position in (first, last, new)]


def _first(lines: Iterator[str], events: int) -> list[str]:
    """The lines of the next events of a stream."""
    found: list[str] = []
    while events:
        found.append(next(lines))
        events -= not found[-1] and bool(found[-2:-1]) and not found[-2].startswith(":")
    return found
