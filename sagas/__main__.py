"""Runs the sagas: `python -m sagas`, configured by `TIDELOG_` settings."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from sagas.definitions import SAGAS
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.codec import Codec
from tidelog.http.ports import ReadinessCheck
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.registry import RegistryClient
from tidelog.saga_runner import SagaRunner
from tidelog.settings import Settings

STOP_TIMEOUT_S = 15.0


def main() -> int:
    """Run until a signal; 0 after a clean stop, 1 if it could not start."""
    return serve("sagas", wire)


def wire(settings: Settings) -> Service:
    """The service, put together: the sagas' threads, and HTTP for health and metrics."""
    registry = RegistryClient(settings.registry_url)
    codec = Codec(CONTEXTS, registry, settings.topic_prefix)
    runner = SagaRunner(SAGAS, CONTEXTS, settings, codec=codec)

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        thread = threading.Thread(target=runner.run, name="sagas", daemon=True)
        thread.start()
        try:
            yield
        finally:
            runner.stop()
            await asyncio.to_thread(thread.join, STOP_TIMEOUT_S)
            registry.close()

    return build_service(
        name="sagas",
        version=__version__,
        checks=[
            ReadinessCheck.of(part, partial(_problems, runner, part)) for part in runner.problems()
        ],
        lifespan=life,
        instance=settings.instance,
    )


def _problems(runner: SagaRunner, part: str) -> Sequence[str]:
    return runner.problems()[part]


if __name__ == "__main__":
    sys.exit(main())
