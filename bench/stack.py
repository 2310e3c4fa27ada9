"""The parts that a benchmark runs on: its own Kafka, PostgreSQL and registry, or given ones."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.sample import listener_on
from bench.servers import HttpServer, running_server
from schemas import CONTEXTS
from tidelog.codec import Codec
from tidelog.embedded import kafka as embedded_kafka
from tidelog.embedded import postgres as embedded_postgres
from tidelog.embedded.jars import KAFKA_VERSION
from tidelog.kafka.topics import EVENTS_CONFIG, admin_client, ensure_topics
from tidelog.registry.client import RegistryClient

FOLDER = Path(__file__).resolve().parent.parent
"""The checkout: modules are run from here."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Parts that run already; '' starts one's own."""

    kafka: str = ""
    postgres: str = ""
    registry: str = ""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the parts are. It is sent to the processes of the sides."""

    kafka: str
    postgres: str
    registry: str
    kafka_pid: int
    """0 where the broker runs elsewhere: then its CPU reads 0."""
    kafka_version: str
    folder: Path


@contextmanager
def running_stack(given: Given) -> Iterator[Stack]:
    """What is given, and the rest started here and stopped in the end."""
    with ExitStack() as exits:
        prefix = "tidelog-bench-"
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        kafka = given.kafka or _own_kafka(exits, folder)
        yield Stack(
            kafka=kafka,
            postgres=given.postgres or _own_postgres(exits, folder),
            registry=given.registry or _own_registry(exits, folder, kafka),
            kafka_pid=listener_on(int(kafka.rpartition(":")[2])),
            kafka_version="of the given broker" if given.kafka else KAFKA_VERSION,
            folder=folder,
        )


def create_topic(stack: Stack, topic: str, partitions: int) -> None:
    """An event topic for a peer, with the configuration of ours."""
    admin = admin_client(stack.kafka)
    ensure_topics(admin, {topic: EVENTS_CONFIG}, partitions, replication_factor=1)


def codec_of(stack: Stack, topic_prefix: str) -> Codec:
    """The real codec, its schemas registered at the stack's registry."""
    codec = Codec(CONTEXTS, RegistryClient(stack.registry), topic_prefix)
    codec.prepare()
    return codec


def service_environment(stack: Stack, prefix: str, partitions: int) -> dict[str, str]:
    """The settings of a service of ours on this stack."""
    return {
        "TIDELOG_KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "TIDELOG_POSTGRES_DSN": stack.postgres,
        "TIDELOG_REGISTRY_URL": stack.registry,
        "TIDELOG_TOPIC_PREFIX": prefix,
        "TIDELOG_PARTITIONS": str(partitions),
        "TIDELOG_STATE_DIR": str(stack.folder / "state" / prefix),
        "TIDELOG_LOG_LEVEL": "warning",
    }


def _own_kafka(exits: ExitStack, folder: Path) -> str:
    running = exits.enter_context(embedded_kafka.start(folder / "kafka"))
    return running.server.bootstrap_servers


def _own_postgres(exits: ExitStack, folder: Path) -> str:
    running = exits.enter_context(embedded_postgres.start(folder / "postgres"))
    return running.server.dsn


def _own_registry(exits: ExitStack, folder: Path, kafka: str) -> str:
    server = HttpServer(
        "registry",
        (sys.executable, "-m", "tidelog.registry"),
        {"TIDELOG_KAFKA_BOOTSTRAP_SERVERS": kafka, "TIDELOG_LOG_LEVEL": "warning"},
        "TIDELOG_HTTP_PORT",
        folder,
    )
    exits.enter_context(running_server(server))
    return server.url
