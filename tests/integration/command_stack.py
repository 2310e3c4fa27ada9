"""A registry, and command services that join it on topics of their own."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.fixtures.servers import Database
from tests.service_process import HTTP, ServiceProcess, free_port, running
from tests.torture.checker import check_answers, check_sequences, check_versions
from tests.torture.log_reader import LogReader

SESSION_TIMEOUT_MS = 3_000
ANSWER_TIMEOUT_S = 40.0


@dataclass
class CommandStack:
    """A registry and what a command service needs to join."""

    kafka: str
    namespace: str
    database: Database
    registry: ServiceProcess
    folder: Path
    partitions: int

    @classmethod
    @contextmanager
    def made(
        cls, kafka: str, postgres: str, folder: Path, partitions: int
    ) -> Iterator[CommandStack]:
        """One registry and one set of topics."""
        name = f"t{uuid.uuid4().hex[:12]}"
        settings = {"kafka_bootstrap_servers": kafka, "topic_prefix": f"{name}."}
        registry = ServiceProcess("tidelog.registry", settings, folder / "registry.log")
        with running(registry):
            yield cls(kafka, f"{name}.", Database(postgres, name), registry, folder, partitions)

    def command_service(self, instance: str = "1", **changes: Any) -> ServiceProcess:
        """A further instance, not started yet."""
        settings = {
            "kafka_bootstrap_servers": self.kafka,
            "topic_prefix": self.namespace,
            "registry_url": self.registry.url,
            "postgres_dsn": self.database.dsn,
            "postgres_schema": self.database.schema,
            "partitions": self.partitions,
            "session_timeout_ms": SESSION_TIMEOUT_MS,
            "instance": instance,
            "state_dir": self.folder / f"state-{instance}",
            "grpc_port": free_port(),
            **changes,
        }
        log = self.folder / f"command_service-{instance}.log"
        return ServiceProcess("command_service", settings, log)

    def events(self, *keys: str) -> list[Any]:
        """The committed events of these stock items, after a look at the whole log's sequences."""
        reader = LogReader(self.kafka, self.registry.url)
        records = reader.read(f"{self.namespace}inventory.events")
        assert check_sequences(records) == []
        return [record for record in records if record.key in keys]


def grpc_of(service: ServiceProcess) -> str:
    """The address of its gRPC server."""
    return f"127.0.0.1:{service.settings['grpc_port']}"


def receive(
    url: str, sku: str, quantity: int, key: str | None = None, timeout: float = 20
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return HTTP.post(
        f"{url}/inventory/{sku}/receive-stock",
        json={"quantity": quantity},
        headers=headers,
        timeout=timeout,
    )


def until_answered(urls: str | list[str], sku: str, key: str) -> dict[str, Any]:
    """Repeat a command with its key until it is acknowledged, by whichever instance owns it."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    for url in itertools.cycle([urls] if isinstance(urls, str) else urls):
        if time.monotonic() > deadline:
            break
        try:
            answer = receive(url, sku, 1, key, timeout=5)
        except httpx.HTTPError:
            time.sleep(0.1)
            continue
        if answer.status_code == 201:
            body: dict[str, Any] = answer.json()
            return body
        assert answer.status_code == 503, answer.text
        time.sleep(0.1)
    raise AssertionError(f"{key} has no answer after {ANSWER_TIMEOUT_S} s")


def faults(events: list[Any], answers: list[dict[str, Any]]) -> list[str]:
    return [*check_versions(events), *check_answers(events, answers)]
