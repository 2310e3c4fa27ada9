"""Running a service on uvicorn, with bounds, and stopping it in order.

On SIGTERM or SIGINT: drain where that takes time (draining.py), accept no more connections, finish
the requests in flight (within a bound), then leave the service's lifespan, which stops its engine,
and return. The exit code is 0.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Final

import uvicorn

from tidelog.errors import TidelogError
from tidelog.http.draining import Draining
from tidelog.http.protocol import BoundedProtocol
from tidelog.http.service import Service
from tidelog.logging import configure_logging, get_logger
from tidelog.settings import Settings, load_settings

KEEP_ALIVE_S: Final = 75
DRAIN_S: Final = 15
"""How long the requests in flight may take once the service is told to stop."""

BACKLOG: Final = 2_048

_log = get_logger("tidelog.http")


def serve(name: str, build: Callable[[Settings], Service]) -> int:
    """What every service's `main` does: settings, logs, the service, and serving until a signal.

    0 after a clean stop; 1 with one line on stderr where it could not start or go on.
    """
    try:
        settings = load_settings()
        configure_logging(settings.log_level, name, settings.instance)
        run(build(settings), settings)
    except TidelogError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


def run(
    service: Service,
    settings: Settings,
    *,
    on_listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until told to stop. `on_listening` is told the URL, also where the port was 0."""
    listener = _listen(settings.http_host, settings.http_port)
    url = url_of(listener)
    _log.info("listening", url=url)
    on_listening(url)
    with _signals_end_well():
        server_of(service).run(sockets=[listener])


class _DrainingServer(uvicorn.Server):
    """A server that drains before it stops."""

    def __init__(self, config: uvicorn.Config, draining: Draining) -> None:
        super().__init__(config)
        self._draining = draining

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come: once to drain and stop, once more to stop now."""
        self._draining.begin(partial(super().handle_exit, sig, frame))


def server_of(
    service: Service, protocol: type[BoundedProtocol] = BoundedProtocol
) -> uvicorn.Server:
    """The server, set up with every bound that it knows."""
    return _DrainingServer(
        uvicorn.Config(
            service,
            http=protocol,
            loop="uvloop",
            ws="none",  # nothing here speaks it; an upgrade is answered as plain HTTP
            lifespan="on",
            log_config=None,  # logs go where ours go
            access_log=False,  # ours is written off the hot path
            proxy_headers=False,  # nobody's word is taken for where a request comes from
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
            backlog=BACKLOG,
            limit_concurrency=None,  # bounded in Service and BoundedProtocol, with problems
        ),
        service.draining,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def url_of(listener: socket.socket) -> str:
    """The URL that reaches the listener."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _signals_end_well() -> Iterator[None]:
    """Outlive the signal: uvicorn raises the one that stopped it once more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
