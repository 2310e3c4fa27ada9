"""Run the registry: `python -m tidelog.registry`, configured by `TIDELOG_` settings.

The line that tells the URL is logged once the log has been read: from then on it is ready.
"""

from __future__ import annotations

import signal
import socket
import sys

import structlog
import uvicorn

from tidelog.errors import TidelogError
from tidelog.registry.kafka_log import KafkaLog
from tidelog.registry.server import create_app
from tidelog.registry.service import RegistryService
from tidelog.settings import Settings, load_settings

REQUESTS_MAX = 256


class _Server(uvicorn.Server):
    """uvicorn that tells where it listens, as port 0 takes a free one."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then log the URL."""
        await super().startup(sockets)
        if sockets and self.started:
            host, port = sockets[0].getsockname()[:2]
            structlog.get_logger("tidelog.registry").info("listening", url=f"http://{host}:{port}")


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 if it could not start."""
    try:
        settings = load_settings()
    except TidelogError as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return serve(settings)


def serve(settings: Settings) -> int:
    """Serve the registry of these settings until SIGINT or SIGTERM."""
    log = KafkaLog(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        topic=f"{settings.topic_prefix}_schemas",
        replication_factor=settings.replication_factor,
        transaction_timeout_ms=settings.transaction_timeout_ms,
    )
    config = uvicorn.Config(
        create_app(RegistryService(log)),
        log_level=settings.log_level,
        # Metrics count the requests; a line for each would tell subjects and ids only.
        access_log=False,
        limit_concurrency=REQUESTS_MAX,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        ws="none",
        server_header=False,
    )
    listener = socket.create_server((settings.http_host, settings.http_port))
    with listener:
        server = _Server(config)
        # uvicorn raises a caught signal again once it has stopped; stopping cleanly is exit 0.
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, lambda *_: None)
        server.run(sockets=[listener])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
