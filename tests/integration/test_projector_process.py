"""Given the projectors as a process of their own, when it is killed, then nothing is lost."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest

from projectors.stock_level import StockLevel, stock_level
from schemas import INVENTORY, ORDERS
from schemas.inventory import StockReceived, StockReserved, StockSold
from tests.fixtures.servers import Database
from tests.log_writer import LogWriter, read_log, until
from tests.service_process import ServiceProcess, service
from tidelog import Event
from tidelog.codec import Codec
from tidelog.engine.folding import Folder, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Partition
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.registry import RegistryClient

KILLS = 3


@dataclass
class Shop:
    """A registry, the logs of the shop, and what a projector process needs to know."""

    kafka: str
    database: Database
    settings: dict[str, str]
    codec: Codec
    stock: LogWriter

    def rows(self) -> dict[str, StoredRow]:
        """What the table holds."""
        store = PostgresProjectionStore(
            stock_level, dsn=self.database.dsn, schema=self.database.schema
        )
        try:
            return store.rows()
        finally:
            store.close()

    def folded(self) -> tuple[dict[str, StoredRow], dict[int, Progress]]:
        """The pure fold of the log, and where each partition ends."""
        reader, folder = EventReader([INVENTORY], self.codec), Folder(stock_level)
        rows: dict[str, StoredRow] = {}
        ends: dict[int, Progress] = {}
        log = read_log(self.kafka, self.stock.topic, self.stock.partitions)
        for number, records in enumerate(log):
            at = Partition("inventory", number)
            reading = reader.read({at: records}, {at: Progress()})
            rows |= folder.fold(folder.touches(reading.facts)[0], {}).upserts
            ends[number] = reading.progress.get(at, Progress())
        return rows, ends

    def positions(self) -> dict[int, Progress]:
        """What PostgreSQL says was folded."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            found = connection.execute(
                'SELECT partition, sequence, "offset" '
                f"FROM {self.database.schema}.projection_positions "
                "WHERE projection = 'stock_level'".encode()
            ).fetchall()
        return {number: Progress(sequence, offset) for number, sequence, offset in found}


@pytest.fixture
def shop(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[Shop]:
    settings = {
        "kafka_bootstrap_servers": kafka,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "topic_prefix": namespace,
        "partitions": "4",
        "projection_batch_events_max": "50",
        "projections_only": "stock_level",
    }
    with service("tidelog.registry", tmp_path, settings, wait_until_ready=False) as registry:
        until(lambda: registry.get("/subjects"), "the registry answers")
        client = RegistryClient(registry.url)
        codec = Codec([INVENTORY], client, namespace)
        codec.prepare()
        LogWriter(kafka, ORDERS, codec, topic_prefix=namespace)
        stock = LogWriter(kafka, INVENTORY, codec, topic_prefix=namespace)
        yield Shop(kafka, database, {**settings, "registry_url": registry.url}, codec, stock)
        client.close()


def moves(chosen: random.Random, count: int) -> list[Event]:
    """Stock that comes, is reserved and is sold."""
    events: list[Event] = []
    for n in range(count):
        sku, order_id = f"sku-{chosen.randrange(30)}", f"o-{n}"
        events.append(StockReceived(sku=sku, quantity=chosen.randrange(1, 9)))
        events.append(StockReserved(sku=sku, order_id=order_id, quantity=1))
        events.append(StockSold(sku=sku, order_id=order_id, quantity=1))
    return events


def metric(running: ServiceProcess, line: str) -> float | None:
    """A sample of /metrics, by the beginning of its line."""
    answer = running.get("/metrics")
    assert answer is not None
    found = re.search(rf"^{re.escape(line)} (\S+)$", answer.text, re.MULTILINE)
    return float(found[1]) if found else None


def test_killed_at_any_moment_it_ends_at_the_fold_of_the_log(shop: Shop, tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for _ in range(KILLS):
        with service("projectors", tmp_path, shop.settings, wait_until_ready=False) as running:
            goal = folded_events(shop) + chosen.randrange(1, 300)
            for _ in range(20):
                shop.stock.append(*moves(chosen, 10))
            until(partial(has_folded, shop, goal), "the projector folds")
            running.kill()

    with service("projectors", tmp_path, shop.settings):
        rows, ends = shop.folded()
        until(lambda: shop.positions() == ends, "the projector reaches the end")

    assert shop.rows() == rows
    assert sum(progress.sequence for progress in ends.values()) == KILLS * 20 * 30


def folded_events(shop: Shop) -> int:
    """How many events the read model has taken in; none before the tables are there."""
    try:
        return sum(progress.sequence for progress in shop.positions().values())
    except psycopg.errors.UndefinedTable:
        return 0


def has_folded(shop: Shop, goal: int) -> bool:
    return folded_events(shop) >= goal


def test_it_tells_its_lag_its_work_and_that_it_is_well(shop: Shop, tmp_path: Path) -> None:
    shop.stock.append(*moves(random.Random(1), 100))

    with service("projectors", tmp_path, shop.settings) as running:
        until(
            lambda: (
                metric(running, 'tidelog_projection_events_total{projection="stock_level"}') == 300
            ),
            "all events are counted",
        )
        place = '{context="inventory",generation="1",partition="0",projection="stock_level",'
        lag = f'tidelog_projection_lag_events{place}version="1"}}'
        until(lambda: metric(running, lag) == 0, "there is no lag")

    assert running.exit_code == 0
    assert shop.rows() == shop.folded()[0]


def test_a_torn_record_does_not_crash_the_process(shop: Shop, tmp_path: Path) -> None:
    whole = shop.codec.encode(StockReceived(sku="tea", quantity=5))
    partition = shop.stock.partition("tea")
    for torn in (b"", b"\x00", whole[:-1], whole + b"\x00", b"\x01" + whole[1:]):
        shop.stock.append_raw(partition, torn, key=b"tea")
    shop.stock.append(StockReceived(sku="tea", quantity=5))

    with service("projectors", tmp_path, shop.settings) as running:
        until(lambda: shop.rows().get("tea"), "the event behind them is folded")
        parked = 'tidelog_projection_parked_records_total{context="inventory",'
        until(lambda: metric(running, parked + 'projection="stock_level"}') == 5, "all are parked")
        assert running.ready()

    assert shop.rows()["tea"].row == StockLevel(sku="tea", on_hand=5, reserved=0)
