"""Runs the notifications: `python -m sagas.notifications`, configured by `TIDELOG_` settings."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sagas.effects.mail import Mails
from sagas.notifications.requests import CUSTOMERS, Requests
from schemas import CONTEXTS
from tidelog import __version__
from tidelog.codec import Codec
from tidelog.effects.definition import Bulkhead
from tidelog.effects.guard import breaker_options, retry_policy
from tidelog.effects.mail_server import MailAddress, MailServer
from tidelog.effects.runner import EffectRunner
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.registry import RegistryClient
from tidelog.settings import Settings

NAME = "notifications"
WRITING_S = 5.0
"""How much longer than its mail an attempt may take."""


def main() -> int:
    """Run until a signal; 0 after a clean stop, 1 if it could not start."""
    return serve(NAME, wire)


def wire(settings: Settings) -> Service:
    """The service, put together: the workers, and HTTP for health and metrics."""
    registry = RegistryClient(settings.registry_url)
    retries = retry_policy(settings)
    requests = Requests(settings.mail_domain)
    mails = Mails(_mail_server(settings), settings.mail_sender)
    calls_max = settings.effect_calls_max
    runner = EffectRunner(
        [
            Bulkhead(name="requests", effects=requests.effects(retries), calls_max=calls_max),
            Bulkhead(name="mails", effects=mails.effects(retries), calls_max=calls_max),
        ],
        [],
        CONTEXTS,
        settings,
        codec=Codec(CONTEXTS, registry, settings.topic_prefix),
        name=NAME,
        references=[CUSTOMERS],
        attempt_s=settings.smtp_timeout_ms / 1000 + WRITING_S,
        age_max=timedelta(hours=settings.notification_age_max_hours),
    )

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        try:
            async with runner.life():
                yield
        finally:
            registry.close()

    return build_service(
        name=NAME,
        version=__version__,
        checks=runner.checks(),
        lifespan=life,
        instance=settings.instance,
    )


def _mail_server(settings: Settings) -> MailServer:
    address = MailAddress(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        user=settings.smtp_user,
        password=settings.smtp_password,
    )
    breaker = breaker_options(settings)
    timeout_s = settings.smtp_timeout_ms / 1000
    return MailServer("mail", address, timeout_s=timeout_s, breaker=breaker)


if __name__ == "__main__":
    sys.exit(main())
