"""The shop's log without a broker, indexed and folded into PostgreSQL as the projectors do it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import msgspec
import psycopg
from prometheus_client import CollectorRegistry

from projectors.event_index import event_index
from projectors.order_detail import order_detail
from query_service.app import build
from schemas import CONTEXTS, OPERATIONS
from schemas.operations import OperatorDecided
from schemas.orders import (
    ORDERS,
    OrderCancellationRequested,
    OrderCancelled,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReserved,
)
from schemas.values import Address, OrderLine
from tests.fixtures.servers import Database
from tests.integration.command_server import serving
from tests.log_writer import until
from tests.registry_server import running
from tidelog import Context, Event
from tidelog.codec import Codec
from tidelog.engine.folding import Decision, Folder, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projection_store import Step, TopicInfo, Written
from tidelog.engine.reading import Fact, Partition
from tidelog.ids import uuid7
from tidelog.parking import target_of
from tidelog.partitioner import partition_of
from tidelog.position import Position
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.postgres.sql_store import SqlProjectionStore
from tidelog.registry import RegistryClient
from tidelog.registry.log import MemoryLog
from tidelog.settings import Settings
from tidelog.wire import EventMetadata, event_headers

PARTITIONS = 4
EPOCH = datetime(2026, 7, 31, 12, 0, 0, 123456, tzinfo=UTC)
HOME = Address(name="Ada", street="Via Roma 1", city="Torino", postal_code="10121", country="IT")
LINES = (OrderLine(sku="tea", quantity=2, unit_price=350),)


def placed(order_id: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id, customer_id="c-1", currency="EUR", lines=LINES, total=700, ship_to=HOME
    )


def cancelled(order_id: str) -> OrderCancelled:
    return OrderCancelled(
        order_id=order_id,
        customer_id="c-1",
        currency="EUR",
        lines=LINES,
        total=700,
        reason="changed my mind",
        confirmed=False,
        paid_on=None,
    )


def some_life(order_id: str, dice: random.Random) -> list[Event]:
    """What may happen to an order, as long as its read model can fold it."""
    steps: list[Event] = [
        OrderReserved(order_id=order_id),
        OrderPaid(order_id=order_id, amount=700, currency="EUR", paid_on="2026-07-31"),
        OrderCancellationRequested(order_id=order_id, reason="changed my mind", confirmed=False),
        cancelled(order_id),
        OrderDelivered(order_id=order_id),
    ]
    return [placed(order_id), *dice.choices(steps, k=dice.randint(0, 7))]


@dataclass
class ShopLog:
    """Appends events, and writes the event index and the orders in a transaction each."""

    database: Database
    codec: Codec
    partitions: int = PARTITIONS
    facts: list[Fact] = field(default_factory=list)
    progress: dict[Partition, Progress] = field(default_factory=dict)
    decisions: dict[tuple[Partition, int], Decision] = field(default_factory=dict)
    versions: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        where: dict[str, Any] = {"dsn": self.database.dsn, "schema": self.database.schema}
        topics = {each.name: TopicInfo(f"id-{each.name}", self.partitions) for each in CONTEXTS}
        self.index = SqlProjectionStore(event_index, **where)
        self.index.open(topics)
        self.orders = PostgresProjectionStore(order_detail, **where)
        self.orders.open({"orders": topics["orders"]})
        self.folder = Folder(order_detail, self.decisions)

    def append(
        self, *events: Event, context: Context = ORDERS, correlation_id: str = "visit-1"
    ) -> list[Fact]:
        """Append the events in one transaction and write them to the read models."""
        before = dict(self.progress)
        facts = [self._fact(event, context, correlation_id) for event in events]
        self.facts += facts
        written = self.index.apply(self._step(before, facts))
        assert isinstance(written, Written)
        if context is ORDERS:
            assert isinstance(self.orders.apply(self._fold_step(before, facts)), Written)
        return facts

    def append_bytes(self, fact: Fact, value: bytes) -> None:
        """Put other bytes in the place of an event's own, as only a fault of ours could."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            connection.execute(
                f"UPDATE {self.database.schema}.event_index SET value = %s "
                "WHERE context = %s AND partition = %s AND sequence = %s".encode(),
                (value, *fact.partition, fact.sequence),
            )

    def decide(self, fact: Fact, replacement: Event | None) -> None:
        """A person decides about an event of an order that could not be folded."""
        position = Position(*fact.partition, fact.sequence)
        text = None if replacement is None else msgspec.json.encode(replacement).decode()
        decision = OperatorDecided(
            target=target_of("order_detail", order_detail.version, position),
            kind="projection",
            projection="order_detail",
            version=order_detail.version,
            position=str(position),
            decision="discard" if replacement is None else "edit",
            reason="a bug",
            operator="ada",
            event_type=None if replacement is None else type(replacement).__name__,
            replacement=text,
        )
        self.decisions[fact.partition, fact.sequence] = Decision(replacement)
        self.append(decision, context=OPERATIONS)

    def of(self, order_id: str) -> list[Fact]:
        """The order's events."""
        return [fact for fact in self.facts if fact.metadata.subject == order_id]

    def folded(self, facts: Sequence[Fact]) -> StoredRow:
        """The pure fold of the events of one order."""
        touches, failure = self.folder.touches(facts)
        assert failure is None
        (row,) = self.folder.fold(touches, {}).upserts.values()
        return row

    def close(self) -> None:
        self.index.close()
        self.orders.close()

    def _fact(self, event: Event, context: Context, correlation_id: str) -> Fact:
        key = getattr(event, context.key)
        at = Partition(context.name, partition_of(key, self.partitions))
        stood = self.progress.get(at, Progress())
        # Two offsets per event, as transaction markers make it.
        now = self.progress[at] = Progress(stood.sequence + 1, stood.offset + 2)
        self.versions[context.name, key] += 1
        version = self.versions[context.name, key]
        time = EPOCH + timedelta(milliseconds=len(self.facts) + version)
        metadata = EventMetadata(
            message_id=uuid7(),
            type=context.full_name(type(event)),
            subject=key,
            recorded_at=time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            sequence=now.sequence,
            version=version,
            correlation_id=correlation_id,
            causation_id=f"command-{now.sequence}",
            command_hash="0" * 64,
            traceparent="",
        )
        headers = event_headers(metadata, context.source)
        record = StoredRecord(now.offset, key.encode(), self.codec.encode(event), headers)
        return Fact(event, at, now.offset, now.sequence, version, time, record)

    def _step(self, before: Mapping[Partition, Progress], facts: Sequence[Fact]) -> Step:
        moved = {fact.partition for fact in facts}
        return Step(
            before={at: before.get(at, Progress()) for at in moved},
            after={at: self.progress[at] for at in moved},
            parked=[],
            facts=facts,
            touched=[],
            keys=[],
            shared=False,
            fold=_no_fold,
        )

    def _fold_step(self, before: Mapping[Partition, Progress], facts: Sequence[Fact]) -> Step:
        touches, failure = self.folder.touches(facts)
        assert failure is None
        keys = sorted({touch.key for touch in touches})
        return self._step(before, facts)._replace(
            touched=keys,
            keys=keys,
            fold=lambda rows, waiting: self.folder.fold(touches, rows, waiting),
        )


@dataclass(frozen=True)
class TimelineServer:
    """The running query service over the shop's log."""

    url: str
    client: httpx2.Client
    log: ShopLog
    settings: Settings

    def get(self, path: str, **headers: str) -> httpx2.Response:
        """GET; `Last_Event_ID` stands for the header Last-Event-ID."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(path, headers=named)

    def settled(self, path: str) -> httpx2.Response:
        """GET once everything that was appended is visible."""
        token = ",".join(str(Position(*at, to.sequence)) for at, to in self.log.progress.items())
        return self.get(path, Consistency_Token=token)


@contextmanager
def timeline_server(database: Database, **options: Any) -> Iterator[TimelineServer]:
    """The query service with a schema registry, over an empty log of the shop."""
    with running(MemoryLog()) as registry_url:
        registry = RegistryClient(registry_url)
        codec = Codec(CONTEXTS, registry)
        codec.prepare()
        log = ShopLog(database, codec)
        given: dict[str, Any] = {"registry_url": registry_url, "partitions": PARTITIONS, **options}
        settings = Settings(postgres_dsn=database.dsn, postgres_schema=database.schema, **given)
        app = build(settings, CollectorRegistry())
        with serving(app) as url, httpx2.Client(base_url=url, trust_env=False) as client:
            until(lambda: client.get("/readyz").status_code == 200, "the queries are ready")
            yield TimelineServer(url, client, log, settings)
        log.close()
        registry.close()


def _no_fold(*_: Any) -> Any:
    raise AssertionError("a projection of its own SQL folds nothing")
