"""The relay of the outbox on a real Kafka and PostgreSQL: what it sends, and what it cannot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from schemas import CONTEXTS, INVENTORY
from schemas.inventory import ReceiveStock
from tests.fixtures.servers import Database
from tests.log_writer import read_log, until
from tidelog.codec import Codec
from tidelog.kafka.outbox_relay import OutboxRelay, run_relay
from tidelog.kafka.topics import COMMANDS_CONFIG, ensure_topics
from tidelog.parking import PAUSES_S
from tidelog.postgres.parked_list import NAMES, parked_select
from tidelog.postgres.saga_statements import SagaStatements
from tidelog.registry.memory import MemoryRegistry
from tidelog.wire import commands_topic

TOPIC = INVENTORY.name

# What no version of today can send, and a word of what is said about it.
UNSENDABLE = {
    "a field is missing": ("ReceiveStock", '{"sku": "tea"}', "quantity"),
    "a type that is not known here": ("PaintStock", '{"sku": "tea"}', "PaintStock"),
    "a number beyond its bounds": (
        "ReceiveStock",
        '{"sku": "tea", "quantity": 9223372036854775808}',
        "1000000",
    ),
}


def data_of(sku: str, quantity: int = 1) -> str:
    return msgspec.json.encode(ReceiveStock(sku=sku, quantity=quantity)).decode()


class Outbox:
    """The outbox of a process that died before it could send."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = SagaStatements(database.schema)
        with self._connect() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {database.schema}".encode())
            for statement in self._statements.create:
                connection.execute(statement)

    def put(self, command_id: str, data: str, sku: str = "tea", kind: str = "ReceiveStock") -> None:
        row = (0, "inventory", sku, command_id, kind, data, "event", "c", "")
        with self._connect() as connection:
            connection.execute(self._statements.request, [[value] for value in row])

    def mend(self, command_id: str, data: str) -> None:
        """The row reads as a version that can send it would take it."""
        self._do(
            "UPDATE {}.saga_outbox SET data = %s::jsonb, command_type = 'ReceiveStock' "
            "WHERE command_id = %s",
            data,
            command_id,
        )

    def grow_old(self, command_id: str, hours: int) -> None:
        """It has been there for so long."""
        self._do(
            "UPDATE {}.saga_outbox SET created_at = now() - make_interval(hours => %s) "
            "WHERE command_id = %s",
            hours,
            command_id,
        )

    def let_the_pause_pass(self) -> None:
        self._do("UPDATE {}.saga_outbox_parked SET next_attempt_at = now()")

    def left(self) -> list[str]:
        query = f"SELECT command_id FROM {self._database.schema}.saga_outbox ORDER BY id"
        with self._connect() as connection:
            return [row[0] for row in connection.execute(query.encode()).fetchall()]

    def parked(self) -> list[dict[str, Any]]:
        """What everybody is shown as parked."""
        query = parked_select(self._database.schema, ["saga_outbox_parked"])
        with self._connect() as connection:
            found = connection.execute(query.encode()).fetchall()
        return [dict(zip(NAMES, row, strict=True)) for row in found]

    def _do(self, statement: str, *values: object) -> None:
        with self._connect() as connection:
            connection.execute(statement.format(self._database.schema).encode(), values)

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._database.dsn, autocommit=True)


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


class Relays:
    """Processes that relay, one after the other, and what they have sent."""

    def __init__(self, kafka: str, namespace: str, database: Database) -> None:
        self._kafka, self._namespace, self._database = kafka, namespace, database
        self._made: list[OutboxRelay] = []
        topics = {commands_topic(TOPIC, namespace): COMMANDS_CONFIG}
        ensure_topics(AdminClient({"bootstrap.servers": kafka}), topics, 1, 1)

    def another(self, registry: MemoryRegistry | None = None) -> OutboxRelay:
        """A further process; the one before it has ended."""
        self.close()
        relay = OutboxRelay(
            CONTEXTS,
            Codec(CONTEXTS, registry or MemoryRegistry(), self._namespace),
            bootstrap_servers=self._kafka,
            partitions=1,
            topic_prefix=self._namespace,
            dsn=self._database.dsn,
            schema=self._database.schema,
            window_hours=168,
        )
        self._made.append(relay)
        return relay

    def sent(self) -> list[str]:
        """The ids of the commands in the topic, in their order."""
        (records,) = read_log(self._kafka, commands_topic(TOPIC, self._namespace), 1)
        return [(dict(record.headers)["ce_id"] or b"").decode() for record in records]

    def close(self) -> None:
        for relay in self._made:
            relay.close()


@pytest.fixture
def relays(kafka: str, namespace: str, database: Database) -> Iterator[Relays]:
    made = Relays(kafka, namespace, database)
    yield made
    made.close()


def test_what_a_dead_process_has_left_is_sent_before_anything_else_was_prepared(
    outbox: Outbox, relays: Relays
) -> None:
    outbox.put("c-1", data_of("tea"))

    assert relays.another().relay() == 1

    assert outbox.left() == []
    assert relays.sent() == ["c-1"]


@pytest.mark.parametrize("wrong", UNSENDABLE)
def test_a_command_that_cannot_be_sent_holds_up_its_aggregate_and_no_other(
    outbox: Outbox, relays: Relays, wrong: str
) -> None:
    kind, data, word = UNSENDABLE[wrong]
    outbox.put("before", data_of("tea"))
    outbox.put("bad", data, kind=kind)
    outbox.put("behind", data_of("tea"))
    outbox.put("other", data_of("cup"), sku="cup")
    relay = relays.another()

    assert relay.relay() == 2
    outbox.put("later", data_of("tea"))
    outbox.put("another", data_of("cup"), sku="cup")
    assert relay.relay() == 1

    assert relays.sent() == ["before", "other", "another"]
    assert outbox.left() == ["bad", "behind", "later"]
    (shown,) = outbox.parked()
    assert (shown["kind"], shown["key"], shown["event_type"]) == ("command", "tea", kind)
    assert (shown["attempts"], shown["waiting"]) == (1, 2)
    assert word in shown["error"]
    assert shown["next_attempt_at"] > shown["parked_at"]
    assert relay.depth().parked == 1


def test_a_command_that_has_waited_longer_than_commands_are_remembered_is_never_sent(
    outbox: Outbox, relays: Relays
) -> None:
    outbox.put("old", data_of("tea"))
    outbox.put("behind", data_of("tea"))
    outbox.put("other", data_of("cup"), sku="cup")
    outbox.grow_old("old", hours=169)
    relay = relays.another()

    assert relay.relay() == 1
    outbox.let_the_pause_pass()
    assert relay.relay() == 0
    assert relays.another().relay() == 0, "nor by a process that starts"

    assert relays.sent() == ["other"]
    (shown,) = outbox.parked()
    assert shown["key"] == "tea"
    assert "169 h" in shown["error"] and "tidelog saga" in shown["error"]


def test_it_is_tried_again_after_ever_longer_pauses(outbox: Outbox, relays: Relays) -> None:
    outbox.put("bad", '{"sku": "tea"}')
    relay = relays.another()
    pauses = []
    for _ in range(len(PAUSES_S) + 2):
        assert relay.relay() == 0
        (shown,) = outbox.parked()
        pauses.append((shown["next_attempt_at"] - shown["attempted_at"]).total_seconds())
        outbox.let_the_pause_pass()
    assert pauses == [*PAUSES_S, PAUSES_S[-1], PAUSES_S[-1]]
    assert outbox.parked()[0]["attempts"] == len(pauses)


def test_a_process_that_can_send_it_does_so_at_once_and_in_order(
    outbox: Outbox, relays: Relays
) -> None:
    outbox.put("bad", '{"sku": "tea"}')
    outbox.put("behind", data_of("tea"))
    assert relays.another().relay() == 0
    outbox.mend("bad", data_of("tea"))

    assert relays.another().relay() == 2

    assert relays.sent() == ["bad", "behind"]
    assert outbox.left() == []
    assert outbox.parked() == []


def test_where_the_next_one_cannot_be_sent_either_that_one_is_parked(
    outbox: Outbox, relays: Relays
) -> None:
    outbox.put("bad", '{"sku": "tea"}')
    outbox.put("worse", '{"sku": "tea"}', kind="PaintStock")
    relay = relays.another()
    assert relay.relay() == 0
    outbox.mend("bad", data_of("tea"))
    outbox.let_the_pause_pass()

    assert relay.relay() == 1

    assert relays.sent() == ["bad"]
    (shown,) = outbox.parked()
    assert (shown["event_type"], shown["attempts"], shown["waiting"]) == ("PaintStock", 1, 0)


class OnceFaulty(MemoryRegistry):
    """A registry whose client fails at first, as only a fault of ours does."""

    faults = 1

    def register(self, subject: str, schema_json: str) -> int:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError(subject)
        return super().register(subject, schema_json)


def test_a_fault_of_ours_is_told_and_the_relay_goes_on(outbox: Outbox, relays: Relays) -> None:
    outbox.put("c-1", data_of("tea"))
    troubles: list[str] = []
    stopping = threading.Event()
    thread = threading.Thread(
        target=run_relay,
        args=(relays.another(OnceFaulty()), stopping, lambda _: None, troubles.append),
    )
    thread.start()
    try:
        until(lambda: not outbox.left(), "the command is sent")
    finally:
        stopping.set()
        thread.join(20)
    assert "ZeroDivisionError" in troubles[0]
    assert relays.sent() == ["c-1"]
