"""R3's peer: the library `eventsourcing` on PostgreSQL, in its strongest settings.

Its stored procedure for inserts (one round trip, prepared), a pool as large as its threads, no
pre-ping. Each client creates an aggregate with the same data as ours and saves it.

Kafka's acknowledgement survives a killed process, not a power cut. PostgreSQL gives just that with
fsync off, so the peer runs with it off as well as on, and both ratios are shown.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict

from bench.sample import Sample, Stopwatch, parent_of, percentile
from bench.stack import Stack

RELOAD_S = 0.2


class Order(Aggregate):
    """The same data as ours."""

    @event("Placed")
    def __init__(
        self,
        customer_id: str,
        currency: str,
        lines: list[dict[str, Any]],
        total: int,
        ship_to: dict[str, str],
    ) -> None:
        self.customer_id = customer_id
        self.currency = currency
        self.lines = lines
        self.total = total
        self.ship_to = ship_to


class EventSourcingSide:
    """`threads` worker threads; more clients than threads wait for their turn at no cost."""

    def __init__(self, stack: Stack, threads: int, fsync: bool, schema: str) -> None:
        self._threads = threads
        self._fsync = fsync
        self._dsn = stack.postgres
        self._postmaster = _postmaster(stack.postgres, schema)
        self._app: Application[Any] = Application(env=_environment(stack.postgres, threads, schema))
        self._latencies: list[float] = []
        self._pool = ThreadPoolExecutor(threads)

    def run(self, seconds: float) -> Sample:
        """Create and save on every thread."""
        _set_fsync(self._dsn, self._fsync)
        try:
            return self._round(seconds)
        finally:
            _set_fsync(self._dsn, True)

    def close(self) -> None:
        """Close its connections."""
        self._pool.shutdown()
        self._app.close()

    def _round(self, seconds: float) -> Sample:
        self._latencies = []
        start = threading.Barrier(self._threads + 1)
        clients = [self._pool.submit(self._client, start, seconds) for _ in range(self._threads)]
        start.wait()
        watch = Stopwatch([self._postmaster])
        operations = sum(client.result() for client in clients)
        sample = watch.sample(operations)
        sample.extra["p50_ms"] = percentile(self._latencies, 0.50) * 1e3
        sample.extra["p99_ms"] = percentile(self._latencies, 0.99) * 1e3
        return sample

    def _client(self, start: threading.Barrier, seconds: float) -> int:
        start.wait()
        saved, save, latencies = 0, self._app.save, self._latencies
        until = perf_counter() + seconds
        while (sent := perf_counter()) < until:
            save(_order())
            latencies.append(perf_counter() - sent)
            saved += 1
        return saved


def _order() -> Order:
    return Order(
        customer_id="customer-4711",
        currency="EUR",
        lines=[
            {"sku": "tea-assam-250g", "quantity": 2, "unit_price": 1_295},
            {"sku": "teapot-stoneware-1l", "quantity": 1, "unit_price": 4_900},
        ],
        total=7_490,
        ship_to={
            "name": "Ada Lovelace",
            "street": "12 St James's Square",
            "city": "London",
            "postal_code": "SW1Y 4JH",
            "country": "GB",
        },
    )


def _environment(dsn: str, threads: int, schema: str) -> dict[str, str]:
    found = conninfo_to_dict(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(found.get("dbname", "postgres")),
        "POSTGRES_HOST": str(found.get("host", "127.0.0.1")),
        "POSTGRES_PORT": str(found.get("port", "5432")),
        "POSTGRES_USER": str(found.get("user", "postgres")),
        "POSTGRES_PASSWORD": str(found.get("password", "none")),
        "POSTGRES_SCHEMA": schema,
        "POSTGRES_POOL_SIZE": str(threads),
        "POSTGRES_MAX_OVERFLOW": "0",
        "POSTGRES_PRE_PING": "no",
        "POSTGRES_ENABLE_DB_FUNCTIONS": "yes",
        "IS_SNAPSHOTTING_ENABLED": "no",
    }


def _postmaster(dsn: str, schema: str) -> int:
    """Make the schema; the process whose children are PostgreSQL's backends."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        backend = connection.info.backend_pid
        return parent_of(backend)


def _set_fsync(dsn: str, on: bool) -> None:
    """For the whole server; every backend reads it before its next statement."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = on" if on else "ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    time.sleep(RELOAD_S)
