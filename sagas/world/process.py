"""How a simulator runs: an HTTP service with health and metrics, as every process here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidelog import __version__
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.settings import Settings


def run_simulator(name: str, routes: Callable[[Settings], Sequence[BaseRoute]]) -> int:
    """Run until a signal; 0 after a clean stop, 1 if it could not start."""

    def build(settings: Settings) -> Service:
        return build_service(
            name=name, version=__version__, routes=routes(settings), instance=settings.instance
        )

    return serve(name, build)


def answer(content: Any) -> Response:
    """The content as JSON."""
    return Response(msgspec.json.encode(content), media_type="application/json")
