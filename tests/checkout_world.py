"""A checkout with all that it needs: gateway, stock in PostgreSQL, commands in memory.

The query service is a process of its own, so that it can be stopped, killed and started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx2
from prometheus_client import CollectorRegistry

from gateway.app import build
from projectors.stock_level import StockLevel, stock_level
from tests.fixtures.servers import Database
from tests.integration.command_server import CommandServer, command_server, order_body, serving
from tests.integration.query_server import PARTITIONS, ReadModel
from tests.log_writer import until
from tests.service_process import ServiceProcess, free_port
from tidelog.grpc import stock_pb2
from tidelog.settings import Settings

NOBODY: Final = "127.0.0.1:9"
"""Where nobody listens."""


@dataclass
class Shop:
    """The running parts, and what tests ask of them."""

    client: httpx2.Client
    commands: CommandServer
    queries: ServiceProcess
    stock: ReadModel
    token: str = ""
    """Where the stock stands."""

    _versions: int = 0

    def put(self, sku: str, on_hand: int, reserved: int = 0) -> None:
        """What the read model says of the SKU from now on."""
        self._versions += 1
        row = StockLevel(sku=sku, on_hand=on_hand, reserved=reserved)
        self.token = self.stock.write(row, self._versions, 0)

    def checkout(self, body: Any = None, **headers: str) -> httpx2.Response:
        """POST /checkout, with stock that is no older than what was put last."""
        return checkout(self.client, body, **{"Consistency_Token": self.token, **headers})

    def start_queries(self) -> None:
        """Start the query service, and wait until it serves."""
        self.queries.start()
        self.queries.wait_ready()


def checkout(client: httpx2.Client, body: Any = None, **headers: str) -> httpx2.Response:
    """POST /checkout; `Idempotency_Key` stands for the header Idempotency-Key."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/checkout", json=order_body() if body is None else body, headers=named)


def lines(**quantities: int) -> list[dict[str, Any]]:
    """The lines of an order."""
    return [
        {"sku": sku, "quantity": number, "unit_price": 100} for sku, number in quantities.items()
    ]


@contextmanager
def shop(database: Database, folder: Path) -> Iterator[Shop]:
    """All parts, with an empty stock."""
    stock = ReadModel(database, stock_level)
    port = free_port()
    queries = ServiceProcess(
        "query_service",
        {
            "postgres_dsn": database.dsn,
            "postgres_schema": database.schema,
            "partitions": PARTITIONS,
            "grpc_port": port,
        },
        folder / "query_service.log",
    )
    with ExitStack() as stack:
        stack.callback(stock.close)
        stack.callback(queries.stop)
        commands = stack.enter_context(command_server())
        client = stack.enter_context(
            gateway(
                command_service_url=commands.url,
                query_service_url=queries.url,
                query_service_grpc=f"127.0.0.1:{port}",
            )
        )
        running = Shop(client, commands, queries, stock)
        running.start_queries()
        yield running


@contextmanager
def gateway(**settings: Any) -> Iterator[httpx2.Client]:
    """A gateway with these settings, and a client of it."""
    known = Settings(**settings)
    with (
        serving(build(known, CollectorRegistry())) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


def checked_again(client: httpx2.Client, body: Callable[[], dict[str, Any]]) -> httpx2.Response:
    """The first checkout whose stock is looked at; each is another order."""

    def look() -> httpx2.Response | None:
        answer = checkout(client, body())
        assert answer.status_code == 201, answer.text
        return answer if answer.json()["stock"]["checked"] else None

    return until(look, "the stock is looked at again")


class HangingStock:
    """A stock service that answers nothing until it is told to go on."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.calls = 0

    def check(self, basket: stock_pb2.Basket, _: Any) -> stock_pb2.Availability:
        """There is enough of everything, in the end."""
        self.calls += 1
        self.asked.release()
        self.go_on.wait(60)
        return stock_pb2.Availability(
            lines=[
                stock_pb2.LineAvailability(sku=line.sku, available=line.quantity, enough=True)
                for line in basket.lines
            ],
            as_of="inventory:0:1",
        )


@contextmanager
def hanging_stock() -> Iterator[tuple[HangingStock, str]]:
    """It listens at this address."""
    stock = HangingStock()
    server = grpc.server(ThreadPoolExecutor(max_workers=64))
    handler = grpc.unary_unary_rpc_method_handler(
        stock.check,
        request_deserializer=stock_pb2.Basket.FromString,
        response_serializer=stock_pb2.Availability.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tidelog.stock.v1.StockService", {"CheckAvailability": handler}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield stock, f"127.0.0.1:{port}"
    finally:
        stock.go_on.set()
        server.stop(None).wait()
