"""A system whose Kafka, PostgreSQL and registry let in only whom they know.

Each service is a user of its own, with the rules that `tidelog acl` makes and no others.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uvicorn
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.fixtures.certificates import Authority
from tests.fixtures.secure_servers import (
    SecureKafka,
    postgres_behind_tls,
    server_context,
    settings_of,
)
from tests.fixtures.servers import Database, server_folder
from tests.log_writer import until
from tests.registry_server import EVENTS, order_placed
from tests.service_process import HTTP, ServiceProcess, running
from tidelog.embedded.process import start_server
from tidelog.errors import Unavailable
from tidelog.kafka.access import PRINCIPALS, READERS
from tidelog.registry.client import RegistryClient
from tidelog.registry.log import MemoryLog
from tidelog.registry.server import create_app
from tidelog.registry.service import RegistryService
from tidelog.settings import load_settings

PARTITIONS = 1
HOME = {"name": "A", "street": "B", "city": "C", "postal_code": "1", "country": "DE"}
BASIC = b"Basic bWU6czNjcmV0"  # me:s3cret


@dataclass(frozen=True)
class World:
    """Servers that are shut, and what opens them."""

    kafka: SecureKafka
    authority: Authority
    folder: Path

    def tidelog(self, *command: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line as the admin."""
        return subprocess.run(
            [sys.executable, "-m", "tidelog.cli", *command],
            env={**os.environ, **settings_of(self.kafka.settings() | changes)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def stranger(self) -> Path:
        """The certificate of an authority that signed nothing here."""
        return Authority(self.folder, "stranger").certificate


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with server_folder() as folder:
        authority = Authority(folder)
        kafka = SecureKafka(folder / "kafka", authority, PRINCIPALS)
        with start_server(kafka, 240):
            world = World(kafka, authority, folder)
            made = world.tidelog("acl", "--apply", "--json")
            assert made.returncode == 0, made.stderr
            assert len(json.loads(made.stdout)["items"]) > len(PRINCIPALS)
            yield world


@pytest.fixture
def postgres_settings(world: World, database: Database) -> Iterator[dict[str, Any]]:
    """The test's own PostgreSQL schema, behind a door that demands TLS and a certificate."""
    given = urlsplit(database.dsn)
    assert given.port is not None
    pair = world.authority.pair("postgres-client")
    with postgres_behind_tls(given.port, server_context(world.authority)) as port:
        password = world.folder / "postgres-password"
        password.write_text(f"{given.password}\n")
        yield {
            "postgres_dsn": f"postgresql://{given.username}@127.0.0.1:{port}{given.path}",
            "postgres_password_file": password,
            "postgres_ssl_ca_file": world.authority.certificate,
            "postgres_ssl_certificate_file": pair.certificate,
            "postgres_ssl_key_file": pair.key,
            "postgres_schema": database.schema,
        }


def send(service: ServiceProcess, path: str, **body: Any) -> None:
    answer = HTTP.post(service.url + path, json=body, timeout=20)
    assert answer.status_code == 201, answer.text


def forwarded(service: ServiceProcess) -> float:
    """How many commands the instance has had decided by another."""
    answer = service.get("/metrics")
    assert answer is not None
    counts = 'tidelog_forwarded_total{outcome="recorded"} '
    lines = [line for line in answer.text.splitlines() if line.startswith(counts)]
    return sum(float(line.removeprefix(counts)) for line in lines)


def value(database: Database, question: str) -> Any:
    """The first column of the answer's only row; None where there is no answer yet."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"SET search_path TO {database.schema}".encode())
        try:
            found = connection.execute(question.encode()).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
    return None if found is None else found[0]


def test_commands_rows_sagas_and_live_windows_pass_the_locked_doors(
    world: World, postgres_settings: dict[str, Any], database: Database, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        **postgres_settings,
        "partitions": PARTITIONS,
        "projections_only": "stock_level",
    }

    pair = world.authority.pair("instances")
    between = {
        "grpc_ssl_ca_file": world.authority.certificate,
        "grpc_ssl_certificate_file": pair.certificate,
        "grpc_ssl_key_file": pair.key,
    }

    def process(user: str, module: str, instance: str = "1") -> ServiceProcess:
        own = {"instance": instance, "state_dir": tmp_path / f"state-{instance}", **between}
        given = settings | own | world.kafka.settings(user)
        return ServiceProcess(module, given, tmp_path / f"{user}-{instance}.log")

    registry = process("registry", "tidelog.registry")
    with running(registry):
        settings["registry_url"] = registry.url
        commands = process("command_service", "command_service")
        others = process("command_service", "command_service", "2")
        projectors = process("projectors", "projectors")
        sagas = process("sagas", "sagas")
        live = process("live_metrics", "projectors.live_metrics")
        with running(commands, others, projectors, sagas):
            # when a customer orders what is there, and either instance is asked
            send(commands, "/inventory/tea/receive-stock", quantity=3)
            send(others, "/inventory/tea/receive-stock", quantity=2)
            send(
                commands,
                "/orders/o-1/place-order",
                customer_id="c",
                currency="EUR",
                lines=[{"sku": "tea", "quantity": 2, "unit_price": 100}],
                ship_to=HOME,
            )
            # then the saga has reserved it, by a command topic, and the read model shows it
            until(
                lambda: value(database, "SELECT reserved FROM stock_level WHERE sku = 'tea'") == 2,
                "tea is reserved",
            )
            # and the instance that does not own the tea has found the other, which it trusts
            assert forwarded(commands) + forwarded(others) >= 1
        with running(live):
            windows = live.get("/windows")
            assert windows is not None
            assert sum(window["orders"]["placed"] for window in windows.json()["windows"]) >= 1


def refused(world: World, user: str, topic: str) -> KafkaError | None:
    """Why the user may not write to the topic; None if it may."""
    told: list[KafkaError | None] = []
    producer = Producer({**world.kafka.client(user), "message.timeout.ms": 30_000})
    producer.produce(topic, b"x", partition=0, on_delivery=lambda error, _: told.append(error))
    assert producer.flush(60) == 0
    return told[0]


def taken_over(world: World, user: str, transactional_id: str) -> KafkaError | None:
    """Why the user may not initialise the transactional id; None if it may."""
    producer = Producer({**world.kafka.client(user), "transactional.id": transactional_id})
    try:
        producer.init_transactions(60)
    except KafkaException as error:
        found: KafkaError = error.args[0]
        return found
    return None


def test_only_the_owner_writes_events_and_only_the_relay_sends_commands(world: World) -> None:
    owner = AdminClient(world.kafka.client("command_service"))
    for name in ("shipping.events", "shipping.commands"):
        with contextlib.suppress(KafkaException):  # another test may have made it
            owner.create_topics([NewTopic(name, 1, 1)])[name].result()

    for user in (*READERS, "registry"):
        assert (why := refused(world, user, "shipping.events")), user
        assert why.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        assert (why := taken_over(world, user, "shipping.events-0-a")), user
        assert why.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert refused(world, "projectors", "shipping.commands") is not None
    assert refused(world, "sagas", "shipping.commands") is None
    assert refused(world, "command_service", "shipping.events") is None
    assert taken_over(world, "command_service", "shipping.events-0-a") is None


def test_a_second_time_nothing_is_made_and_another_writer_is_told(world: World) -> None:
    again = world.tidelog("acl", "--apply", "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"items": []})

    admin = AdminClient(world.kafka.client())
    rule = AclBinding(
        ResourceType.TOPIC,
        "ord",
        ResourcePatternType.PREFIXED,
        "User:eve",
        "*",
        AclOperation.WRITE,
        AclPermissionType.ALLOW,
    )
    admin.create_acls([rule])[rule].result(30)
    told = world.tidelog("acl", "--apply")
    assert told.returncode == 1
    assert "User:eve may write orders.events" in told.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kafka_sasl_password": "s3cret"}, "TIDELOG_KAFKA_SASL_PASSWORD"),
        ({"kafka_ssl_ca_file": "a stranger's"}, "TIDELOG_KAFKA_SSL_CA_FILE"),
        ({"kafka_security_protocol": "PLAINTEXT"}, "TIDELOG_KAFKA_SECURITY_PROTOCOL"),
    ],
)
def test_the_command_line_names_the_setting_for_which_kafka_shuts_its_door(
    world: World, change: dict[str, Any], named: str
) -> None:
    if "kafka_ssl_ca_file" in change:
        change = {"kafka_ssl_ca_file": world.stranger()}
    result = world.tidelog("topics", **change)
    assert result.returncode == 3, result.stderr
    assert named in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


def test_a_service_with_a_wrong_password_says_so_in_its_log(world: World, tmp_path: Path) -> None:
    settings = {**world.kafka.settings(), "kafka_sasl_password": "s3cret"}
    registry = ServiceProcess("tidelog.registry", settings, tmp_path / "registry.log")
    registry.start()
    try:
        until(
            lambda: "TIDELOG_KAFKA_SASL_PASSWORD" in registry.log.read_text(),
            "the log names it",
            60,
        )
        assert "s3cret" not in registry.log.read_text()
    finally:
        registry.kill()


def test_postgresql_is_trusted_only_with_a_certificate_of_our_authority(
    world: World, postgres_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, given in settings_of(postgres_settings).items():
        monkeypatch.setenv(name, given)
    with psycopg.connect(load_settings().postgres_dsn) as connection:
        assert connection.pgconn.ssl_in_use
    monkeypatch.setenv("TIDELOG_POSTGRES_SSL_CA_FILE", str(world.stranger()))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(load_settings().postgres_dsn)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"postgres_ssl_ca_file": "a stranger's"}, "TIDELOG_POSTGRES_SSL_CA_FILE"),
        ({"postgres_password_file": "another"}, "TIDELOG_POSTGRES_PASSWORD_FILE"),
        (
            {"postgres_ssl_certificate_file": "", "postgres_ssl_key_file": ""},
            "TIDELOG_POSTGRES_SSL_CERTIFICATE_FILE",
        ),
    ],
)
def test_where_postgresql_refuses_us_the_setting_is_named(
    world: World, postgres_settings: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    (world.folder / "another").write_text("s3cret")
    files = {"a stranger's": world.stranger(), "another": world.folder / "another", "": ""}
    changes = {name: files[given] for name, given in change.items()}

    result = world.tidelog("projection", "list", **postgres_settings | changes)

    assert result.returncode == 3, result.stderr
    assert named in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


class OnlyMe:
    """HTTP basic before an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != BASIC:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        await self._app(scope, receive, send)


@pytest.fixture
def locked_registry(world: World) -> Iterator[str]:
    """A registry behind https that knows one user."""
    pair = world.authority.pair("registry")
    inner = create_app(RegistryService(MemoryLog()))
    config = uvicorn.Config(
        Starlette(
            routes=[Mount("/", inner)],
            middleware=[Middleware(OnlyMe)],
            lifespan=inner.router.lifespan_context,
        ),
        port=0,
        log_level="warning",
        ws="none",
        ssl_certfile=str(pair.certificate),
        ssl_keyfile=str(pair.key),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the registry did not start"
        time.sleep(0.01)
    try:
        yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def test_the_registry_is_asked_over_https_by_a_user_it_knows(
    world: World, locked_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDELOG_REGISTRY_CA_FILE", str(world.authority.certificate))
    monkeypatch.setenv("TIDELOG_REGISTRY_USERNAME", "me")
    monkeypatch.setenv("TIDELOG_REGISTRY_PASSWORD", "s3cret")
    with contextlib.closing(RegistryClient(locked_registry)) as client:
        assert client.register(EVENTS, order_placed()) > 0

    monkeypatch.setenv("TIDELOG_REGISTRY_PASSWORD", "other")
    with (
        contextlib.closing(RegistryClient(locked_registry)) as client,
        pytest.raises(Unavailable, match="TIDELOG_REGISTRY_PASSWORD"),
    ):
        client.register(EVENTS, order_placed())

    monkeypatch.setenv("TIDELOG_REGISTRY_CA_FILE", str(world.stranger()))
    with (
        contextlib.closing(RegistryClient(locked_registry, attempts_max=2)) as client,
        pytest.raises(Unavailable, match="TIDELOG_REGISTRY_CA_FILE"),
    ):
        client.register(EVENTS, order_placed())
