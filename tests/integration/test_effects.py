"""Orders with a real world outside: a provider and carriers that fail, and workers that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.log_writer import until
from tests.service_process import HTTP, ServiceProcess, running

PARTITIONS = 2
WAIT_S = 90.0
HOME = {"name": "A", "street": "B", "city": "C", "postal_code": "1", "country": "DE"}
FAST = {
    "effect_timeout_ms": 700,
    "effect_pause_ms": 100,
    "effect_lease_ms": 4_000,
    "effect_attempts_max": 50,
    "breaker_open_ms": 500,
}


@dataclass
class World:
    """The whole shop: its processes and those of the world outside."""

    commands: ServiceProcess
    effects: ServiceProcess
    provider: ServiceProcess
    carrier: ServiceProcess
    database: Database

    def send(self, path: str, **body: Any) -> None:
        """Send a command; it must be taken."""
        answer = HTTP.post(self.commands.url + path, json=body, timeout=20)
        assert answer.status_code in (200, 201), answer.text

    def place(self, order_id: str, *, customer_id: str = "c", postal_code: str = "1") -> None:
        """A customer places an order of one piece of tea."""
        self.send(
            f"/orders/{order_id}/place-order",
            customer_id=customer_id,
            currency="EUR",
            lines=[{"sku": "tea", "quantity": 1, "unit_price": 100}],
            ship_to={**HOME, "postal_code": postal_code},
        )

    def behave(self, simulator: ServiceProcess, **behaviour: Any) -> None:
        """From now on the simulator behaves so."""
        answer = HTTP.put(simulator.url + "/behaviour", json=behaviour)
        assert answer.status_code == 200, answer.text

    def ledger(self, simulator: ServiceProcess) -> list[dict[str, Any]]:
        """The simulator's books."""
        found: list[dict[str, Any]] = HTTP.get(simulator.url + "/ledger", timeout=20).json()
        return found

    def rows(self, query: str) -> list[Any]:
        """What PostgreSQL holds."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            return connection.execute(query.format(self.database.schema).encode()).fetchall()

    def instances(self) -> dict[str, dict[str, Any]]:
        """Every order's fulfilment, by order."""
        found = self.rows(
            "SELECT key, instance::text FROM {}.saga_instances "
            "WHERE saga = 'fulfilment' AND instance IS NOT NULL"
        )
        return {key: msgspec.json.decode(document) for key, document in found}

    def wait(self, phases: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
        """The instances, once each of these is in one of its phases, and no work is left."""

        def look() -> dict[str, dict[str, Any]] | None:
            found = self.instances()
            ended = all(found.get(key, {}).get("phase") in ends for key, ends in phases.items())
            return found if ended and not self.rows("SELECT id FROM {}.effect_work") else None

        try:
            return until(look, f"{phases}", WAIT_S)
        except AssertionError as error:
            seen = {key: (each["phase"], each["state"]) for key, each in self.instances().items()}
            work = self.rows("SELECT id, status, attempts, error FROM {}.effect_work")
            raise AssertionError(f"{error}\n{seen}\n{work}\n{self.effects.tail()}") from None

    def balance(self) -> dict[str, Counter[str]]:
        """By order, how often the provider captured and refunded. Nothing was done twice."""
        found: dict[str, Counter[str]] = {}
        for entry in self.ledger(self.provider):
            found.setdefault(entry["order_id"], Counter())[entry["kind"]] += 1
        for order_id, kinds in found.items():
            assert max(kinds.values()) == 1, (order_id, kinds)
        return found

    def wait_for_captures(self, wanted: int) -> None:
        """Until the provider has entered so much."""
        until(lambda: len(self.ledger(self.provider)) >= wanted, f"{wanted} captures", WAIT_S)

    def metric(self, name: str) -> float:
        """The sum of a metric of the effects over its labels."""
        answer = self.effects.get("/metrics")
        assert answer is not None
        lines = [line for line in answer.text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture
def world(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[World]:
    settings: dict[str, Any] = {
        "kafka_bootstrap_servers": kafka,
        "topic_prefix": namespace,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "partitions": PARTITIONS,
        "session_timeout_ms": 3_000,
        **FAST,
    }

    def process(module: str, **more: Any) -> ServiceProcess:
        own = {**settings, "state_dir": tmp_path / module, **more}
        return ServiceProcess(module, own, tmp_path / f"{module}.log")

    registry = process("tidelog.registry")
    provider = process("sagas.world.payment_provider")
    carrier = process("sagas.world.carrier")
    with ExitStack() as stack:
        stack.enter_context(running(registry, provider, carrier))
        settings["registry_url"] = registry.url
        settings["payment_provider_url"] = provider.url
        settings["carrier_url"] = carrier.url
        commands, sagas = process("command_service"), process("sagas")
        effects = process("sagas.effects")
        stack.enter_context(running(commands, sagas, effects))
        yield World(commands, effects, provider, carrier, database)


def test_orders_meet_the_world_outside(world: World) -> None:
    """One run, for the processes take long to start: each order meets another fate."""
    world.send("/inventory/tea/receive-stock", quantity=100)

    world.place("good")
    world.place("declined", customer_id="declined-d")
    world.place("unshippable", postal_code="00000")
    found = world.wait(
        {"good": {"completed"}, "declined": {"compensated"}, "unshippable": {"compensated"}}
    )
    assert found["good"]["state"]["shipment"] == "arranged"
    assert found["declined"]["state"]["payment"] == "declined"
    assert found["unshippable"]["state"]["payment"] == "refunded"
    assert world.balance() == {
        "good": Counter(capture=1),
        "unshippable": Counter(capture=1, refund=1),
    }

    world.behave(world.provider, mode="lose-answer")
    world.place("lost")
    world.wait({"lost": {"completed"}})
    assert world.balance()["lost"] == Counter(capture=1)
    world.behave(world.provider, mode="approve")

    world.behave(world.carrier, mode="error", only="north")
    HTTP.put(world.carrier.url + "/parcels/good", json={"status": "delivered"}).raise_for_status()
    world.behave(world.carrier, mode="approve")
    until(
        lambda: world.instances()["good"]["state"]["shipment"] == "delivered" or None,
        "the delivery is heard of",
        WAIT_S,
    )


def test_a_provider_that_is_down_for_a_while_is_left_alone_and_then_paid(world: World) -> None:
    world.send("/inventory/tea/receive-stock", quantity=100)
    world.provider.kill()
    orders = [f"d-{number}" for number in range(12)]
    for order_id in orders:
        world.place(order_id)
    until(lambda: world.metric("tidelog_breaker_opened_total") or None, "the breaker opens", WAIT_S)

    world.provider.start()

    world.wait({order_id: {"completed"} for order_id in orders})
    assert world.balance() == {order_id: Counter(capture=1) for order_id in orders}


def test_a_worker_that_is_killed_in_the_middle_loses_and_doubles_nothing(world: World) -> None:
    world.send("/inventory/tea/receive-stock", quantity=100)
    world.behave(world.provider, mode="slow", delay_ms=300)
    orders = [f"k-{number}" for number in range(20)]
    for order_id in orders:
        world.place(order_id)
    for captures in (1, 8):
        world.wait_for_captures(captures)
        world.effects.kill()
        world.effects.start()
    world.behave(world.provider, mode="approve")

    world.wait({order_id: {"completed"} for order_id in orders})
    assert world.balance() == {order_id: Counter(capture=1) for order_id in orders}
    booked = Counter(entry["order_id"] for entry in world.ledger(world.carrier))
    assert booked == Counter(orders)
