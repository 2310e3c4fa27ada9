"""Runs the projectors: `python -m projectors`, configured by `TIDELOG_` settings."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from projectors import PROJECTIONS
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.codec import Codec
from tidelog.definitions import AnyProjection, projection_named
from tidelog.http.ports import ReadinessCheck
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.kafka.decisions import DecisionLog
from tidelog.lag_monitor import LagMonitor
from tidelog.lag_observer import LagObserver
from tidelog.logging import get_logger
from tidelog.projector import Projectors, contexts_of
from tidelog.registry import RegistryClient
from tidelog.retrier import ParkingLoop
from tidelog.settings import Settings

STOP_TIMEOUT_S = 15.0

# Every record is a dozen small tuples, none of them in a cycle: at the defaults half the time
# goes into looking for cycles.
GC_THRESHOLDS = (100_000, 50, 100)

log = get_logger("projectors")


def main() -> int:
    """Project until a signal; 0 after a clean stop, 1 if it could not start."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    return serve("projectors", wire)


def wire(settings: Settings) -> Service:
    """The service, put together: the read models' threads, and HTTP for health and metrics."""
    projections = chosen(settings.projections_only)
    registry = RegistryClient(settings.registry_url)
    codec = Codec(contexts_of(projections), registry, settings.topic_prefix)
    parking = retrier(projections, settings, registry)

    def prepare() -> None:
        codec.prepare()
        # A fold without the decisions would park what is decided.
        parking.decisions.wait_until_read()

    projectors = Projectors(
        projections,
        settings,
        codec=codec,
        prepare=prepare,
        decisions=parking.decisions.decisions_for,
    )
    lags = LagMonitor(LagObserver(PROJECTIONS, settings))

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        threads = [
            # A thread that hangs must not keep the process.
            threading.Thread(target=projectors.run, name="projectors", daemon=True),
            threading.Thread(target=parking.run, name="parking", daemon=True),
            threading.Thread(target=lags.run, name="lags", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            lags.stop()
            projectors.stop()
            parking.stop()
            await asyncio.to_thread(join, threads)
            registry.close()

    return build_service(
        name="projectors",
        version=__version__,
        checks=[
            *(
                ReadinessCheck.of(name, partial(projectors.problems, name))
                for name in projectors.names
            ),
            ReadinessCheck.of("log", projectors.log_problems),
            ReadinessCheck.of("parking", parking.problems),
            ReadinessCheck.of("lag", lags.problems),
        ],
        lifespan=life,
        instance=settings.instance,
    )


def retrier(
    projections: Sequence[AnyProjection], settings: Settings, registry: RegistryClient
) -> ParkingLoop:
    """Retries the parked keys of the read models, and has them heed the decisions."""
    codec = Codec(CONTEXTS, registry, settings.topic_prefix)
    decisions = DecisionLog(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        topic_prefix=settings.topic_prefix,
        codec=codec,
        contexts=CONTEXTS,
    )
    return ParkingLoop(
        projections,
        contexts=CONTEXTS,
        codec=codec,
        settings=settings,
        decisions=decisions,
    )


def chosen(only: str) -> Sequence[AnyProjection]:
    """The read models of this process: all, or those that a setting names."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    return [projection_named(PROJECTIONS, name) for name in names] or PROJECTIONS


def join(threads: Sequence[threading.Thread]) -> None:
    """Wait, within a bound, until the batches in hand are finished."""
    for thread in threads:
        thread.join(STOP_TIMEOUT_S)
        if thread.is_alive():
            log.error("projection.did_not_stop", thread=thread.name)


if __name__ == "__main__":
    sys.exit(main())
