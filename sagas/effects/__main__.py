"""Runs the effects: `python -m sagas.effects`, configured by `TIDELOG_` settings."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sagas.effects.carrier import Parcels
from sagas.effects.payment import Payments
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.codec import Codec
from tidelog.effects.definition import Bulkhead
from tidelog.effects.dependency import Dependency
from tidelog.effects.guard import breaker_options, retry_policy
from tidelog.effects.runner import EffectRunner
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.registry import RegistryClient
from tidelog.settings import Settings

CARRIERS = ("north", "south")
MOVEMENTS_S = 0.5


def main() -> int:
    """Run until a signal; 0 after a clean stop, 1 if it could not start."""
    return serve("effects", wire)


def wire(settings: Settings) -> Service:
    """The service, put together: the workers, and HTTP for health and metrics."""
    registry = RegistryClient(settings.registry_url)
    provider = _dependency("payment_provider", settings.payment_provider_url, settings)
    carriers = {name: _dependency(name, settings.carrier_url, settings) for name in CARRIERS}
    retries = retry_policy(settings)
    parcels = Parcels(carriers)
    calls_max = settings.effect_calls_max
    runner = EffectRunner(
        [
            Bulkhead(
                name="payments", effects=Payments(provider).effects(retries), calls_max=calls_max
            ),
            Bulkhead(name="parcels", effects=parcels.effects(retries), calls_max=calls_max),
        ],
        [parcels.movements(name, MOVEMENTS_S) for name in CARRIERS],
        CONTEXTS,
        settings,
        codec=Codec(CONTEXTS, registry, settings.topic_prefix),
    )

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        try:
            async with runner.life():
                yield
        finally:
            for dependency in (provider, *carriers.values()):
                await dependency.close()
            registry.close()

    return build_service(
        name="effects",
        version=__version__,
        checks=runner.checks(),
        lifespan=life,
        instance=settings.instance,
    )


def _dependency(name: str, url: str, settings: Settings) -> Dependency:
    timeout_s = settings.effect_timeout_ms / 1000
    return Dependency(name, url, timeout_s=timeout_s, breaker=breaker_options(settings))


if __name__ == "__main__":
    sys.exit(main())
