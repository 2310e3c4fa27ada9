"""Given a compensation without effect, when its tries are used up, then a person ends it well.

On a real PostgreSQL; time is handed in, so that the pauses pass at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from sagas.effects.carrier import Parcels
from sagas.effects.payment import Payments
from sagas.fulfilment import fulfilment
from sagas.returns import returns
from schemas import CONTEXTS, OPERATIONS
from schemas.inventory import StockReleased, StockReserved
from schemas.operations import OperatorDecided
from schemas.orders import OrderCancellationRequested, OrderCancelled, OrderPlaced, OrderReserved
from schemas.payments import PaymentVoided
from schemas.values import Address, OrderLine
from tests.fixtures.servers import Database
from tests.integration.query_server import QueryServer, query_server
from tests.read_side import record
from tidelog.effects.definition import RetryPolicy
from tidelog.effects.dependency import Dependency
from tidelog.effects.work_tables import WorkStatements
from tidelog.engine.folding import Changes
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Step, TopicInfo, Written
from tidelog.engine.reacting import Heard, Reactor
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.engine.saga_batch import NOTHING, react_all
from tidelog.memory import MemoryCodec
from tidelog.postgres.saga_decisions import SagaDecisionStore
from tidelog.postgres.saga_desk import SagaDesk
from tidelog.postgres.saga_store import SagaRows
from tidelog.saga import ATTEMPTS_MAX

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
HOME = Address(name="A", street="B", city="C", postal_code="1", country="DE")
LINES = (OrderLine(sku="tea", quantity=2, unit_price=300),)
AT = Partition("operations", 0)

placed = OrderPlaced(
    order_id="o", customer_id="c", currency="EUR", lines=LINES, total=600, ship_to=HOME
)
cancelled = OrderCancelled(
    order_id="o",
    customer_id="c",
    currency="EUR",
    lines=LINES,
    total=600,
    reason="no",
    confirmed=False,
    paid_on=None,
)
TO_UNDOING = (
    placed,
    StockReserved(sku="tea", order_id="o", quantity=2),
    OrderReserved(order_id="o"),
    OrderCancellationRequested(order_id="o", reason="no", confirmed=False),
)


class Sagas:
    """The parts that look after instances, on one database, with a clock of their own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reactor = Reactor(fulfilment, CONTEXTS)
        reactors = {"fulfilment": self.reactor}
        self.rows = SagaRows(self.reactor, database.schema)
        self.desk = SagaDesk(reactors, dsn=database.dsn, schema=database.schema)
        self.decisions = SagaDecisionStore(
            reactors, OPERATIONS, dsn=database.dsn, schema=database.schema
        )
        self.decisions.open({"operations": TopicInfo("topic", 1)})
        self.heard = 0
        self.decided = 0

    def close(self) -> None:
        self.desk.close()
        self.decisions.close()

    def hear(self, *events: Any) -> None:
        """Events of the order come, a second after one another."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            for event in events:
                self.heard += 1
                at = BEGINNING + timedelta(seconds=self.heard)
                heard = Heard(event, f"m-{self.heard}", "x", "c", "", f"orders:0:{self.heard}", at)
                with connection.transaction():
                    found = self.rows.lock(connection, ["o"]).rows()
                    changes = react_all(
                        self.reactor, {"o": [heard]}, {"o": found.get("o", NOTHING)}
                    )
                    self.rows.write(connection, changes)

    def decide(self, decision: str, step: str | None = None) -> None:
        """A person decides: an event of the log, carried out as it is read from it."""
        self.decided += 1
        event = OperatorDecided(
            target=f"saga~fulfilment~{self.decided}",
            kind="saga",
            projection="fulfilment",
            version=1,
            position="payments:0:1",
            decision=decision,
            reason="the provider is back",
            operator="ada",
            key="o",
            step=step,
        )
        stored = record(
            event,
            offset=self.decided,
            sequence=self.decided,
            version=1,
            context=OPERATIONS,
            codec=MemoryCodec([OperatorDecided]),
        )
        fact = EventReader([OPERATIONS], MemoryCodec([OperatorDecided])).event(AT, stored)
        assert isinstance(fact, Fact)
        before = self.decisions.progress()[AT]
        after = Progress(self.decided, self.decided)
        carried = Step({AT: before}, {AT: after}, [], [fact], [], [], False, nothing)
        assert isinstance(self.decisions.apply(carried), Written)

    def work(self, id: str, effect: str, key: str = "o", *, taken: bool = False) -> None:
        """Work outside is open; perhaps somebody is at it this moment."""
        statements = WorkStatements(self.database.schema)
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            for statement in statements.create:
                connection.execute(statement)
            data = f'{{"order_id":"{key}"}}'
            row = (id, effect, key, data, "m", "c", "")
            connection.execute(statements.add, [[each] for each in row])
            if taken:
                connection.execute(statements.claim, ("somebody", 60, [effect], 1))

    def open_work(self) -> list[str]:
        """The ids of the work that is open."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            found = connection.execute(
                f"SELECT id FROM {self.database.schema}.effect_work ORDER BY id".encode()
            ).fetchall()
        return [identity for (identity,) in found]

    def outbox(self, command_type: str) -> list[str]:
        """The ids of the commands of this type that were asked for, in order."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            found = connection.execute(
                f"SELECT command_id FROM {self.database.schema}.saga_outbox "
                "WHERE command_type = %s ORDER BY id".encode(),
                (command_type,),
            ).fetchall()
        return [identity for (identity,) in found]


def nothing(*_: object) -> Changes:
    """There are no rows to fold."""
    return Changes({}, [], [], {})


@pytest.fixture
def sagas(database: Database) -> Iterator[Sagas]:
    made = Sagas(database)
    yield made
    made.close()


@pytest.fixture
def asked(database: Database, sagas: Sagas) -> Iterator[QueryServer]:
    del sagas  # its tables are there first
    with query_server(database) as server:
        yield server


def stuck_so_far() -> float:
    labels = {"saga": "fulfilment", "became": "stuck"}
    return REGISTRY.get_sample_value("tidelog_saga_instances_total", labels) or 0.0


def use_up(sagas: Sagas) -> None:
    """The order is cancelled, and what voids its payment never has an effect."""
    sagas.hear(*TO_UNDOING)
    now = BEGINNING
    for _ in range(ATTEMPTS_MAX):
        now += timedelta(minutes=16)
        sagas.desk.remind("fulfilment", now)


def test_a_compensation_that_fails_five_times_is_stuck_and_a_retry_ends_it(
    sagas: Sagas, asked: QueryServer
) -> None:
    before = stuck_so_far()
    use_up(sagas)

    sent = sagas.outbox("VoidPayment")
    assert len(sent) == ATTEMPTS_MAX and len(set(sent)) == 1, "always the same command"
    (shown,) = asked.get("/sagas?status=stuck").json()["items"]
    assert shown["stuck"] == "void-payment had no effect in 5 attempts"
    (void,) = [step for step in shown["steps"] if step["step"] == "void-payment"]
    assert (void["kind"], void["status"], void["attempts"]) == ("compensation", "pending", 5)
    assert stuck_so_far() == before + 1
    assert sagas.desk.waiting("fulfilment") == 1

    sagas.decide("retry")

    assert len(sagas.outbox("VoidPayment")) == ATTEMPTS_MAX + 1
    assert asked.get("/sagas?status=stuck").json()["items"] == []
    assert sagas.desk.waiting("fulfilment") == 0
    sagas.hear(
        PaymentVoided(order_id="o"), StockReleased(sku="tea", order_id="o", quantity=2), cancelled
    )
    ended = asked.get("/sagas/fulfilment:o").json()
    assert ended["status"] == "compensated"
    assert [(each["decision"], each["operator"]) for each in ended["decisions"]] == [
        ("retry", "ada")
    ]


def test_a_compensation_that_will_never_succeed_is_skipped_and_the_rest_is_undone(
    sagas: Sagas, asked: QueryServer
) -> None:
    use_up(sagas)

    sagas.decide("skip", "void-payment")

    assert len(sagas.outbox("ReleaseStock")) == 1
    sagas.hear(StockReleased(sku="tea", order_id="o", quantity=2), cancelled)
    ended = asked.get("/sagas/fulfilment:o").json()
    assert ended["status"] == "compensated"
    (void,) = [step for step in ended["steps"] if step["step"] == "void-payment"]
    assert (void["status"], void["position"]) == ("skipped", "operations:0:1")
    assert void["reason"] == "the provider is back"


def test_what_a_person_did_by_hand_is_not_done_outside_once_more(
    sagas: Sagas, asked: QueryServer
) -> None:
    use_up(sagas)
    sagas.work("1", "take-payment")
    sagas.work("2", "void-payment")
    sagas.work("3", "take-payment", key="another")
    sagas.work("4", "send-mail")

    sagas.decide("skip", "void-payment")

    assert sagas.open_work() == ["3", "4"]
    assert asked.get("/sagas/fulfilment:o").json()["decisions"][-1]["status"] == "done"


def test_a_step_whose_work_is_being_tried_at_this_moment_is_not_skipped(
    sagas: Sagas, asked: QueryServer
) -> None:
    use_up(sagas)
    sagas.work("1", "take-payment", taken=True)

    sagas.decide("skip", "void-payment")

    assert sagas.open_work() == ["1"]
    shown = asked.get("/sagas/fulfilment:o").json()
    assert shown["decisions"][-1]["refused"] == (
        "take-payment is being tried at this moment: decide again"
    )
    assert shown["status"] == "stuck"


def test_every_effect_that_a_skip_stops_is_one_that_there_is() -> None:
    policy = RetryPolicy()
    dependency = Dependency("nobody", "http://127.0.0.1:1", timeout_s=1.0)
    known = {
        each.name
        for each in (
            *Payments(dependency).effects(policy),
            *Parcels({"north": dependency}).effects(policy),
        )
    }
    for saga in (fulfilment, returns):
        reactor = Reactor(saga, CONTEXTS)
        for step in reactor.skips():
            assert set(reactor.outside(step)) <= known, (saga.name, step)


def test_a_decision_about_what_is_not_there_harms_nothing(sagas: Sagas) -> None:
    labels = {"saga": "fulfilment", "decision": "compensate", "outcome": "unknown"}
    before = REGISTRY.get_sample_value("tidelog_saga_decisions_total", labels) or 0.0

    sagas.decide("compensate")

    assert REGISTRY.get_sample_value("tidelog_saga_decisions_total", labels) == before + 1
