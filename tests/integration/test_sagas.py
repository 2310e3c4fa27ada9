"""Order fulfilment by real processes: commands, events, reactions, and what kills do to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from typer.testing import CliRunner, Result

from tests.fixtures.servers import Database
from tests.log_writer import until
from tests.service_process import HTTP, ServiceProcess, running
from tidelog.cli.parked import parked_app
from tidelog.cli.saga import saga_app
from tidelog.effects.work_tables import WorkStatements

PARTITIONS = 2
HOME = {"name": "A", "street": "B", "city": "C", "postal_code": "1", "country": "DE"}


@dataclass
class Shop:
    """The command side and the sagas, with no effects: the test is the outside world."""

    commands: ServiceProcess
    sagas: ServiceProcess
    database: Database

    def send(self, path: str, **body: Any) -> dict[str, Any]:
        """Send a command; it must be taken."""
        answer = HTTP.post(self.commands.url + path, json=body, timeout=20)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    def place(self, order_id: str, *skus: str) -> None:
        """A customer places an order of one piece of each."""
        lines = [{"sku": sku, "quantity": 1, "unit_price": 100} for sku in skus]
        self.send(
            f"/orders/{order_id}/place-order",
            customer_id="c",
            currency="EUR",
            lines=lines,
            ship_to=HOME,
        )

    def instance(self, order_id: str) -> dict[str, Any]:
        """What is stored of the order's fulfilment."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            found = connection.execute(
                f"SELECT instance::text FROM {self.database.schema}.saga_instances "
                "WHERE saga = 'fulfilment' AND key = %s".encode(),
                (order_id,),
            ).fetchone()
        return msgspec.json.decode(found[0]) if found and found[0] else {}

    def change(self, assignments: str) -> None:
        """Change every row of the instances, as no saga would."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            connection.execute(
                f"UPDATE {self.database.schema}.saga_instances SET {assignments} "
                "WHERE phase IS NOT NULL".encode()
            )

    def wait(self, order_id: str, **wanted: Any) -> dict[str, Any]:
        """The instance, once its phase and its state have these values."""

        def look() -> dict[str, Any] | None:
            instance = self.instance(order_id)
            values = {"phase": instance.get("phase"), **instance.get("state", {})}
            return instance if wanted.items() <= values.items() else None

        try:
            return until(look, f"{order_id} with {wanted}")
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.instance(order_id)}\n{self.sagas.tail()}"
            ) from None

    def wait_for_answer(self, order_id: str, step: str) -> None:
        """Wait until every command of this step has its answer."""

        def answered() -> bool:
            steps = self.instance(order_id).get("steps", ())
            found = [each["status"] for each in steps if each["step"] == step]
            return bool(found) and set(found) == {"done"}

        until(answered, f"an answer to {step} of {order_id}")


@pytest.fixture
def shop(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[Shop]:
    settings = {
        "kafka_bootstrap_servers": kafka,
        "topic_prefix": namespace,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "partitions": PARTITIONS,
        "session_timeout_ms": 3_000,
    }
    registry = ServiceProcess("tidelog.registry", settings, tmp_path / "registry.log")
    with running(registry):
        settings = {**settings, "registry_url": registry.url}
        commands = ServiceProcess(
            "command_service",
            {**settings, "state_dir": tmp_path / "state"},
            tmp_path / "command_service.log",
        )
        sagas = ServiceProcess("sagas", settings, tmp_path / "sagas.log")
        with running(commands), running(sagas):
            yield Shop(commands, sagas, database)


@pytest.fixture
def queries(shop: Shop, tmp_path: Path) -> Iterator[ServiceProcess]:
    """A query service over the same tables."""
    settings = {
        "postgres_dsn": shop.database.dsn,
        "postgres_schema": shop.database.schema,
        "partitions": PARTITIONS,
    }
    service = ServiceProcess("query_service", settings, tmp_path / "query_service.log")
    with running(service):
        yield service


def tell(*arguments: str) -> Result:
    """Run `tidelog saga …`."""
    return CliRunner().invoke(saga_app, [*arguments, "--json"])


def saga(*arguments: str) -> dict[str, Any]:
    """What `tidelog saga …` answers; it must be well."""
    result = tell(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    answer: dict[str, Any] = msgspec.json.decode(result.stdout)
    return answer


def test_an_order_goes_from_placed_to_confirmed_and_its_stock_is_sold(shop: Shop) -> None:
    shop.send("/inventory/tea/receive-stock", quantity=5)
    shop.send("/inventory/cup/receive-stock", quantity=5)

    shop.place("o-1", "tea", "cup")
    shop.wait_for_answer("o-1", "request-payment")
    shop.send("/payments/o-1/record-payment-captured", amount=200, captured_on="2026-01-01")
    shop.wait_for_answer("o-1", "request-shipment")
    shop.send("/shipping/o-1/record-shipment-arranged", carrier="C", tracking="t-1")

    instance = shop.wait("o-1", phase="completed")
    assert instance["state"]["stock"] == {"tea": "sold", "cup": "sold"}
    assert {step["status"] for step in instance["steps"]} == {"done"}
    assert instance["stuck"] == ""


def test_an_order_without_stock_is_cancelled_and_what_it_held_is_released(shop: Shop) -> None:
    shop.send("/inventory/tea/receive-stock", quantity=5)

    shop.place("o-2", "tea", "nothing")

    instance = shop.wait("o-2", phase="compensated")
    assert instance["state"]["stock"] == {"tea": "released", "nothing": "refused"}


def test_sagas_that_are_killed_over_and_over_lose_and_double_nothing(shop: Shop) -> None:
    shop.send("/inventory/tea/receive-stock", quantity=100)
    orders = [f"k-{number}" for number in range(30)]
    for number, order_id in enumerate(orders):
        shop.place(order_id, "tea")
        if number % 10 == 5:
            shop.sagas.kill()
            shop.sagas.start()

    for order_id in orders:
        shop.wait(order_id, payment="asked")
    shop.sagas.kill()
    shop.sagas.start()
    for order_id in orders:
        shop.send(f"/orders/{order_id}/cancel-order", reason="changed my mind")
    for order_id in orders:
        instance = shop.wait(order_id, phase="compensated")
        assert instance["state"]["payment"] == "voided"
        assert instance["stuck"] == ""


def test_what_a_person_has_retried_goes_on_and_is_asked_for_over_the_queries(
    shop: Shop, queries: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDELOG_QUERY_SERVICE_URL", queries.url)
    monkeypatch.setenv("TIDELOG_COMMAND_SERVICE_URL", shop.commands.url)
    shop.send("/inventory/tea/receive-stock", quantity=5)
    shop.place("o-1", "tea")
    shop.wait_for_answer("o-1", "request-payment")
    assert saga("show", "fulfilment:o-1")["expected_next"] == [
        "PaymentCaptured",
        "PaymentDeclined",
        "PaymentVoided",
    ]
    assert tell("retry", "fulfilment:o-1", "--reason", "why not").exit_code == 1, "it is not stuck"
    shop.change("stuck = 'for a test', instance = (instance::jsonb || '{\"stuck\":\"x\"}')::json")
    assert [each["id"] for each in saga("list", "--status", "stuck")["items"]] == ["fulfilment:o-1"]

    assert saga("retry", "fulfilment:o-1", "--reason", "a test")["status"] == "running"

    assert saga("show", "fulfilment:o-1")["status"] == "running"
    assert saga("list", "--status", "stuck") == {"items": []}
    shop.sagas.kill()
    shop.change("stuck = 'again', instance = (instance::jsonb || '{\"stuck\":\"x\"}')::json")
    shop.sagas.start()
    shop.place("o-2", "tea")
    shop.wait("o-2", payment="asked")
    assert saga("show", "fulfilment:o-1")["status"] == "stuck", "a decision is carried out once"


def test_a_person_skips_a_step_and_turns_the_whole_back(
    shop: Shop, queries: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDELOG_QUERY_SERVICE_URL", queries.url)
    monkeypatch.setenv("TIDELOG_COMMAND_SERVICE_URL", shop.commands.url)
    because = ("--reason", "paid in cash", "--operator", "ada")
    shop.send("/inventory/tea/receive-stock", quantity=5)
    shop.place("o-1", "tea")
    shop.wait_for_answer("o-1", "request-payment")

    assert saga("skip", "fulfilment:o-1", "request-payment", *because)["outcome"] == "done"

    shop.wait("o-1", shipment="asked")
    refused = tell("skip", "fulfilment:o-1", "reserve-stock", *because)
    assert refused.exit_code == 1
    assert "only its own aggregate" in msgspec.json.decode(refused.stdout)["refused"]
    assert saga("compensate", "fulfilment:o-1", *because)["outcome"] == "done"
    shop.wait("o-1", phase="compensated", payment="voided", shipment="cancelled")
    again = tell("compensate", "fulfilment:o-1", *because)
    assert again.exit_code == 1 and "undone already" in str(again.exception)
    shown = saga("show", "fulfilment:o-1")["decisions"]
    assert [(each["decision"], each["status"]) for each in shown] == [
        ("skip", "done"),
        ("skip", "refused"),
        ("compensate", "done"),
    ]
    assert {each["operator"] for each in shown} == {"ada"}


def test_work_outside_that_is_parked_is_shown_and_taken_up_again_by_a_person(
    shop: Shop, queries: ServiceProcess, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDELOG_QUERY_SERVICE_URL", queries.url)
    monkeypatch.setenv("TIDELOG_COMMAND_SERVICE_URL", shop.commands.url)
    monkeypatch.setenv("TIDELOG_POSTGRES_DSN", shop.database.dsn)
    monkeypatch.setenv("TIDELOG_POSTGRES_SCHEMA", shop.database.schema)
    monkeypatch.setenv("TIDELOG_KAFKA_BOOTSTRAP_SERVERS", kafka)
    statements = WorkStatements(shop.database.schema)
    with psycopg.connect(shop.database.dsn, autocommit=True) as connection:
        for statement in statements.create:
            connection.execute(statement)
        row = ("pay-back:1", "pay-back", "o-1", '{"order_id":"o-1"}', "1", "c", "")
        connection.execute(statements.add, [[each] for each in row])
        connection.execute(
            f"UPDATE {shop.database.schema}.effect_work SET status = 'parked', attempts = 8, "
            "error = 'it said no', next_attempt_at = NULL, "
            "since = now() - interval '1 hour'".encode()
        )

        (item,) = parked("effects")["items"]
        assert (item["effect"], item["key"], item["attempts"]) == ("pay-back", "o-1", 8)
        assert item["error"] == "it said no" and item["age_seconds"] >= 3_600

        because = ("--reason", "mended", "--operator", "ada")
        assert parked("retry-effects", *because) == {"retried": 1, "parked": 0}

        found = connection.execute(
            f"SELECT status, attempts, next_attempt_at IS NOT NULL "
            f"FROM {shop.database.schema}.effect_work".encode()
        ).fetchall()
        assert found == [("waiting", 0, True)]
        assert parked("effects") == {"items": []}
        nothing = CliRunner().invoke(parked_app, ["retry-effects", *because])
        assert (nothing.exit_code, nothing.stdout) == (0, "")
        assert "nothing is parked" in nothing.stderr
        assert parked("retry-effects", *because) == {"retried": 0, "parked": 0}
        misspelt = CliRunner().invoke(parked_app, ["retry-effects", "--key", "o-l", *because])
        assert misspelt.exit_code == 1
        assert "for key o-l; `tidelog parked effects` shows" in str(misspelt.exception)


def parked(*arguments: str) -> dict[str, Any]:
    """What `tidelog parked …` answers; it must be well."""
    result = CliRunner().invoke(parked_app, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    answer: dict[str, Any] = msgspec.json.decode(result.stdout)
    return answer
