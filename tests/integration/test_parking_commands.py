"""Given rows that are parked, when a person uses `tidelog parked`, then they see it and decide it.

On real parts: commands come by HTTP, projectors fold them, and the database refuses some rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from tests.fixtures.servers import Database
from tests.log_writer import until
from tests.service_process import HTTP, ServiceProcess, running
from tidelog.cli.parked import parked_app

# Another fold of the same events could not tell such a row: only the database does.
REFUSES = """
CREATE FUNCTION {s}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.on_hand % 10 = 3 THEN
    RAISE EXCEPTION 'stock of % is refused', NEW.on_hand USING ERRCODE = '22000';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {s}.stock_level__v1_g1
  FOR EACH ROW EXECUTE FUNCTION {s}.refuse();
"""


@dataclass
class Store:
    """Stock that is received by commands and shown by a projector."""

    settings: dict[str, Any]
    commands: ServiceProcess
    database: Database

    def receive(self, sku: str, *quantities: int) -> None:
        """Put pieces on the shelf."""
        for quantity in quantities:
            answer = HTTP.post(
                f"{self.commands.url}/inventory/{sku}/receive-stock",
                json={"quantity": quantity},
                timeout=20,
            )
            assert answer.status_code in (200, 201), answer.text

    def tidelog(self, *arguments: str) -> tuple[int, Any]:
        """`tidelog parked …`: the exit code, and the JSON on stdout."""
        values = {**self.settings, "command_service_url": self.commands.url}
        variables = {f"TIDELOG_{name.upper()}": str(value) for name, value in values.items()}
        done = CliRunner().invoke(parked_app, [*arguments, "--json"], env=variables)
        return done.exit_code, json.loads(done.stdout) if done.stdout else done.output

    def query(self, statement: str) -> list[Any]:
        """What SQL finds in the test's schema (as `{s}`)."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            text = statement.replace("{s}", self.database.schema).encode()
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    def on_hand(self, sku: str) -> int | None:
        """What the read model shows."""
        found = self.query(f"SELECT on_hand FROM {{s}}.stock_level WHERE sku = '{sku}'")
        return found[0][0] if found else None


@pytest.fixture
def store(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[Store]:
    settings: dict[str, Any] = {
        "kafka_bootstrap_servers": kafka,
        "topic_prefix": namespace,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "partitions": 2,
    }
    registry = ServiceProcess("tidelog.registry", settings, tmp_path / "registry.log")
    with running(registry):
        settings["registry_url"] = registry.url
        commands = ServiceProcess(
            "command_service",
            {**settings, "state_dir": tmp_path / "state"},
            tmp_path / "command_service.log",
        )
        projectors = ServiceProcess(
            "projectors",
            {**settings, "projections_only": "stock_level"},
            tmp_path / "projectors.log",
        )
        with running(commands, projectors):
            yield Store(settings, commands, database)


def test_what_is_parked_is_listed_shown_retried_edited_and_discarded(store: Store) -> None:
    until(
        lambda: (
            store.query("SELECT to_regclass('{s}.stock_level__v1_g1') IS NOT NULL") == [(True,)]
        ),
        "the read model is there",
        60,
    )
    store.query(REFUSES)
    for sku in ("edited", "discarded", "retried"):
        store.receive(sku, 10, 3, 10)
    until(lambda: waiting(store) == {"edited": 1, "discarded": 1, "retried": 1}, "all wait", 60)

    code, shown = store.tidelog("show", "stock_level", "edited")
    assert (code, shown["error_type"], shown["row"]["on_hand"]) == (0, "CodecError", 10)
    assert "stock of 13 is refused" in shown["error"]
    assert '"quantity": 3' in json.dumps(shown["event"])

    code, failed = store.tidelog("retry", "stock_level", "retried")
    assert (code, failed["outcome"]) == (1, "failed")

    why = ("--reason", "a test", "--operator", "ada")
    data = '{"sku": "edited", "quantity": 5}'
    code, edited = store.tidelog("edit", "stock_level", "edited", "--data", data, *why)
    assert (code, edited["outcome"], store.on_hand("edited")) == (0, "drained", 25)
    code, discarded = store.tidelog("discard", "stock_level", "discarded", *why)
    assert (code, discarded["outcome"], store.on_hand("discarded")) == (0, "drained", 20)

    code, refused = store.tidelog("discard", "stock_level", "edited", *why)
    assert code != 0, f"what is parked no more cannot be decided: {refused}"

    store.query("DROP TRIGGER refuse ON {s}.stock_level__v1_g1")
    code, retried = store.tidelog("retry", "stock_level", "retried")
    assert (code, retried["outcome"], store.on_hand("retried")) == (0, "drained", 23)
    assert waiting(store) == {}


def waiting(store: Store) -> dict[str, int]:
    """How many events wait, by parked key, as `tidelog parked list` shows it."""
    code, listed = store.tidelog("list", "--kind", "projection")
    assert code == 0, listed
    return {each["key"]: each["waiting"] for each in listed["items"]}
