"""Run a command service: `python -m command_service`, configured by `TIDELOG_` settings."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import REGISTRY

from command_service.aggregates import AGGREGATES
from command_service.instances import Instances
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.aggregate import Aggregate
from tidelog.codec import Codec
from tidelog.engine.command import Envelope, Outcome, Refused
from tidelog.errors import TidelogError
from tidelog.fingerprint import aggregate_fingerprint
from tidelog.http.answers import result_of
from tidelog.http.command_api import CommandApi
from tidelog.http.draining import Draining
from tidelog.http.ports import ReadinessCheck
from tidelog.http.problems import problem_of
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.kafka.command_host import CommandHost, HostParts
from tidelog.kafka.metrics import CommandHostCollector
from tidelog.logging import get_logger
from tidelog.partitioner import partition_of
from tidelog.postgres.operations import PostgresOperations
from tidelog.registry.client import RegistryClient
from tidelog.rocksdb import RocksStateStore
from tidelog.settings import Settings

TRACE_ID = slice(3, 35)
"""Where a traceparent holds the trace id."""

FORGET_EVERY_S = 3_600.0

# A commit's end is told by a thread; at the default of 5 ms it would wait that long for the
# interpreter while the event loop is busy.
SWITCH_INTERVAL_S = 0.0001

# Entries and seen commands are acyclic and many; scanning them again and again finds nothing.
GC_THRESHOLDS = (100_000, 50, 100)

log = get_logger("command_service")


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 if it could not start."""
    tune_interpreter()
    return serve("command_service", wire)


def tune_interpreter() -> None:
    """Set what CPython's defaults would cost this process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def wire(settings: Settings) -> Service:
    """The service, put together."""
    draining = Draining(settings.drain_ms / 1000)
    codec = Codec(CONTEXTS, RegistryClient(settings.registry_url), settings.topic_prefix)
    operations = PostgresOperations(
        settings.postgres_dsn, settings.postgres_schema, document_of(settings.partitions)
    )
    host = CommandHost(
        settings,
        HostParts(
            aggregates=AGGREGATES,
            codec=codec,
            open_store=open_store(settings.state_dir),
            outcomes=operations,
        ),
    )
    instances = Instances(settings, host, codec, draining)
    api = CommandApi(
        AGGREGATES,
        instances.door,
        command_timeout_ms=settings.command_timeout_ms,
        operations=operations,
    )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await asyncio.to_thread(codec.prepare)
        await operations.open()
        address = await instances.listen(api)
        await host.start(address)
        collector = CommandHostCollector(host)
        REGISTRY.register(collector)
        forgetting = asyncio.create_task(forget_old_operations(operations))
        try:
            yield
        finally:
            forgetting.cancel()
            REGISTRY.unregister(collector)
            await host.stop()
            await instances.close()
            await operations.close()

    return build_service(
        name="command_service",
        version=__version__,
        commands=api,
        operations=operations,
        checks=[ReadinessCheck.of("partitions", instances.problems)],
        lifespan=lifespan,
        draining=draining,
        instance=settings.instance,
    )


def open_store(state_dir: Path) -> Any:
    """Opens checkpoints under the state folder; topic id and definitions identify them."""

    def open_one(
        aggregate: Aggregate[Any, Any, Any], partition: int, topic_id: str
    ) -> RocksStateStore:
        path = state_dir / f"{aggregate.context.name}-{partition}"
        store = RocksStateStore(
            path,
            aggregate.state_type,
            topic_id=topic_id,
            definitions=aggregate_fingerprint(aggregate),
        )
        if store.discarded:
            log.warning("checkpoint.discarded", path=str(path))
        return store

    return open_one


def document_of(partitions: int) -> Any:
    """How an outcome reads at `/operations/{id}`."""

    def document(context: str, envelope: Envelope, outcome: Outcome) -> dict[str, Any]:
        if isinstance(outcome, Refused):
            path = f"/{context}/{envelope.key}"
            trace_id = envelope.traceparent[TRACE_ID]
            problem = problem_of(outcome.error, path, trace_id)
            return {"status": "refused", "problem": msgspec.to_builtins(problem)}
        partition = partition_of(envelope.key, partitions)
        return {"status": "done", "result": result_of(outcome, context, partition, envelope.key)}

    return document


async def forget_old_operations(operations: PostgresOperations) -> None:
    """Delete operations past their 24 hours, every hour."""
    while True:
        await asyncio.sleep(FORGET_EVERY_S)
        try:
            await operations.forget_old()
        except TidelogError as error:
            log.warning("operations.forget_failed", error=str(error))


if __name__ == "__main__":
    sys.exit(main())
