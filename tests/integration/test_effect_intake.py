"""What becomes of events before they are work: too old to act upon, or kept for other effects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from sagas.notifications.requests import CUSTOMERS, Requests
from schemas import CONTEXTS, ORDERS
from schemas.orders import OrderConfirmed, OrderPlaced
from schemas.payments import RecordPaymentVoided
from schemas.values import Address, OrderLine
from tests.fixtures.servers import Database
from tidelog import Event
from tidelog.effects.definition import RetryPolicy
from tidelog.effects.intake import WorkIntake
from tidelog.effects.work_store import WorkStore
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projection_store import Step, TopicInfo
from tidelog.engine.reading import Fact, Partition
from tidelog.wire import EventMetadata, event_headers

LINES = (OrderLine(sku="tea", quantity=1, unit_price=100),)
HOME = Address(name="A", street="B", city="C", postal_code="1", country="DE")
PLACED = OrderPlaced(
    order_id="o", customer_id="ada", currency="EUR", lines=LINES, total=100, ship_to=HOME
)
CONFIRMED = OrderConfirmed(
    order_id="o", customer_id="ada", currency="EUR", lines=LINES, total=100, paid_on="2026-07-31"
)
DAY = timedelta(days=1)


def fact(event: Event, sequence: int, age: timedelta = timedelta()) -> Fact:
    """The event as it stands in the log, recorded so long ago."""
    recorded_at = datetime.now(UTC) - age
    metadata = EventMetadata(
        message_id=f"m-{sequence}",
        type=f"tidelog.orders.{type(event).__name__}",
        subject="o",
        recorded_at=recorded_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        sequence=sequence,
        version=sequence,
        correlation_id="x",
        causation_id="c",
        command_hash="h",
        traceparent="",
    )
    return Fact(
        event=event,
        partition=Partition("orders", 0),
        offset=sequence,
        sequence=sequence,
        version=sequence,
        recorded_at=recorded_at,
        record=StoredRecord(sequence, b"o", b"", event_headers(metadata, "/orders")),
    )


def take_in(intake: WorkIntake, facts: Sequence[Fact]) -> None:
    """Take the events in, in one transaction."""
    intake.apply(
        Step(
            before={},
            after={},
            parked=(),
            facts=facts,
            touched=(),
            keys=(),
            shared=False,
            fold=lambda _rows, _parked: pytest.fail("an intake folds nothing"),
        )
    )


@pytest.fixture
def intake(database: Database) -> WorkIntake:
    opened = WorkIntake(
        "notifications",
        Requests("d.example").effects(RetryPolicy()),
        [CUSTOMERS],
        [ORDERS],
        dsn=database.dsn,
        schema=database.schema,
        age_max=DAY,
    )
    opened.open({ORDERS.name: TopicInfo("topic", 1)})
    return opened


@pytest.fixture
async def store(intake: WorkIntake, database: Database) -> AsyncIterator[WorkStore]:
    opened = WorkStore(CONTEXTS, dsn=database.dsn, schema=database.schema)
    await opened.open()
    yield opened
    await opened.close()
    intake.close()


async def test_what_is_too_old_is_no_work(intake: WorkIntake, store: WorkStore) -> None:
    take_in(intake, [fact(CONFIRMED, 1, age=2 * DAY), fact(CONFIRMED, 2, age=DAY / 2)])

    found = await store.claim(["tell-of-confirmation"], 10, 60)
    assert [work.message_id for work in found] == ["m-2"]


async def test_who_placed_an_order_is_known_however_long_ago_that_was(
    intake: WorkIntake, store: WorkStore
) -> None:
    assert await store.known(CUSTOMERS.name, "o") is None

    for _ in range(2):
        take_in(intake, [fact(PLACED, 1, age=100 * DAY)])

    assert await store.known(CUSTOMERS.name, "o") == "ada"
    assert await store.known("other", "o") is None


async def test_work_that_is_parked_may_say_so_by_a_command_and_who_comes_late_says_nothing(
    intake: WorkIntake, store: WorkStore, database: Database
) -> None:
    take_in(intake, [fact(CONFIRMED, 1)])
    (late,) = await store.claim(["tell-of-confirmation"], 1, 0)
    (work,) = await store.claim(["tell-of-confirmation"], 1, 60)
    outcome = RecordPaymentVoided(order_id="o")

    await store.park(late, "late", None, outcome)
    assert outbox(database) == []

    await store.park(work, "no", None, outcome)
    assert outbox(database) == ["RecordPaymentVoided"]
    assert await store.retry_parked(work.id) == 1


def outbox(database: Database) -> list[str]:
    """The commands that are to be sent, by their types."""
    with psycopg.connect(database.dsn) as connection:
        query = f"SELECT command_type FROM {database.schema}.saga_outbox"
        return [row[0] for row in connection.execute(query.encode())]
