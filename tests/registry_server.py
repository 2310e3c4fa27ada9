"""A registry server in a thread, and schemas to give to it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import uvicorn

from tidelog.registry.kafka_log import KafkaLog
from tidelog.registry.log import SchemaLog
from tidelog.registry.server import create_app
from tidelog.registry.service import RegistryService

EVENTS = "orders.events-tidelog.orders.OrderPlaced"
MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
Logs: TypeAlias = Callable[[], SchemaLog]


def order_placed(*fields: dict[str, object]) -> str:
    return json.dumps(
        {
            "type": "record",
            "name": "OrderPlaced",
            "namespace": "tidelog.orders",
            "fields": [{"name": "order_id", "type": "string"}, *fields],
        }
    )


NOTE: dict[str, object] = {"name": "note", "type": ["null", "string"], "default": None}
TOTAL: dict[str, object] = {"name": "total", "type": "long"}


@contextlib.contextmanager
def running(log: SchemaLog) -> Iterator[str]:
    """The real server in a thread; its URL, until the block is left."""
    config = uvicorn.Config(
        create_app(RegistryService(log)), port=0, log_level="warning", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the registry did not start"
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def logs_on_kafka(bootstrap_servers: str, prefix: str) -> Logs:
    return lambda: KafkaLog(
        bootstrap_servers=bootstrap_servers,
        topic=f"{prefix}_schemas",
        replication_factor=1,
        transaction_timeout_ms=10_000,
    )
