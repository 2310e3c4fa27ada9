"""Runs the projectors: `python -m projectors`, configured by `TIDELOG_` settings."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from projectors.order_summary import order_summary
from projectors.stock_level import stock_level
from tidelog import __version__
from tidelog.codec import Codec
from tidelog.errors import TidelogError, Unavailable
from tidelog.http.ports import ReadinessCheck
from tidelog.http.server import run
from tidelog.http.service import Service, build_service
from tidelog.kafka.ends import LogEnds
from tidelog.kafka.reader import read_topics
from tidelog.kafka.topics import admin_client
from tidelog.logging import configure_logging, get_logger
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.projection import Projection
from tidelog.projector import Projector, ProjectorOptions
from tidelog.registry import RegistryClient, SchemaRegistry
from tidelog.settings import Settings, load_settings

PROJECTIONS: Sequence[Projection[Any, Any]] = (order_summary, stock_level)

STOP_TIMEOUT_S = 10.0
LAG_INTERVAL_S = 5.0

# Every record is a dozen small tuples, none of them in a cycle: at the defaults half the time
# goes into looking for cycles.
GC_THRESHOLDS = (100_000, 50, 100)

log = get_logger("projectors")


def main() -> int:
    """Project until a signal; 0 after a clean stop, 1 if it could not start."""
    try:
        settings = load_settings()
        configure_logging(settings.log_level, "projectors", settings.instance)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        run(wire(settings), settings)
    except TidelogError as error:
        print(f"projectors: {error}", file=sys.stderr)
        return 1
    return 0


def wire(settings: Settings) -> Service:
    """The service, put together: a thread per projection, and HTTP for health and metrics."""
    registry = RegistryClient(settings.registry_url)
    projectors = [projector(each, settings, registry) for each in PROJECTIONS]

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        threads = [threading.Thread(target=each.run, name=each.name) for each in projectors]
        stopping = threading.Event()
        threads.append(threading.Thread(target=measure_lags, args=(projectors, settings, stopping)))
        for thread in threads:
            thread.daemon = True  # a thread that hangs must not keep the process
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for each in projectors:
                each.stop()
            await asyncio.to_thread(join, threads)
            registry.close()

    return build_service(
        name="projectors",
        version=__version__,
        checks=[ReadinessCheck(name=each.name, check=_check(each)) for each in projectors],
        lifespan=life,
        instance=settings.instance,
    )


def projector(
    projection: Projection[Any, Any], settings: Settings, registry: SchemaRegistry
) -> Projector:
    """One projection with its own codec, store and place in the group."""
    admin = admin_client(settings.kafka_bootstrap_servers)
    codec = Codec(projection.contexts, registry, settings.topic_prefix)
    return Projector(
        projection,
        codec=codec,
        store=PostgresProjectionStore(
            projection, dsn=settings.postgres_dsn, schema=settings.postgres_schema
        ),
        prepare=codec.prepare,
        topics=lambda: read_topics(admin, projection.contexts, settings.topic_prefix),
        options=ProjectorOptions(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            topic_prefix=settings.topic_prefix,
            instance=settings.instance,
            session_timeout_ms=settings.session_timeout_ms,
            batch_events_max=settings.projection_batch_events_max,
        ),
    )


def measure_lags(
    projectors: Sequence[Projector], settings: Settings, stopping: threading.Event
) -> None:
    """Look up the ends of the log every few seconds, until told to stop."""
    ends = LogEnds(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        topic_prefix=settings.topic_prefix,
    )
    while not stopping.wait(LAG_INTERVAL_S):
        try:
            assigned = {at for each in projectors for at in each.positions()}
            found = ends.sequences(sorted(assigned))
        except Unavailable as error:
            log.warning("projection.lag_unknown", reason=str(error))
            continue
        for each in projectors:
            each.measure_lag(found)
    ends.close()


def join(threads: Sequence[threading.Thread]) -> None:
    """Wait, within a bound, until the batches in hand are finished."""
    for thread in threads:
        thread.join(STOP_TIMEOUT_S)
        if thread.is_alive():
            log.error("projection.did_not_stop", thread=thread.name)


def _check(each: Projector) -> Callable[[], Awaitable[str | None]]:
    async def check() -> str | None:
        return "; ".join(each.problems()) or None

    return check


if __name__ == "__main__":
    sys.exit(main())
