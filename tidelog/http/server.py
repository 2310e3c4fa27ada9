"""Running a service on uvicorn, with bounds, and stopping it in order.

On SIGTERM or SIGINT: accept no more connections, finish the requests in flight (within a bound),
then leave the service's lifespan, which stops its engine, and return. The exit code is 0.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from tidelog.http.protocol import BoundedProtocol
from tidelog.http.service import Service
from tidelog.logging import get_logger
from tidelog.settings import Settings

KEEP_ALIVE_S: Final = 75
DRAIN_S: Final = 15
"""How long the requests in flight may take once the service is told to stop."""

BACKLOG: Final = 2_048

_log = get_logger("tidelog.http")


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


def server_of(
    service: Service, protocol: type[BoundedProtocol] = BoundedProtocol
) -> uvicorn.Server:
    """The server, set up with every bound that it knows."""
    return uvicorn.Server(
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
        )
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
