"""Which service answers which path. The table is data: read it and you know the gateway."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Upstream(Enum):
    """The services behind the gateway."""

    COMMANDS = "command_service"
    QUERIES = "query_service"


class RoutedPath(NamedTuple):
    """A method and a path; `{name}` stands for one segment that is not empty."""

    method: str
    template: str
    upstream: Upstream


ROUTES = (
    RoutedPath("POST", "/commands", Upstream.COMMANDS),
    RoutedPath("GET", "/operations/{id}", Upstream.COMMANDS),
    RoutedPath("GET", "/openapi.json", Upstream.COMMANDS),
    RoutedPath("GET", "/docs", Upstream.COMMANDS),
    # But for the pages of the gateway's own problems.
    RoutedPath("GET", "/problems", Upstream.COMMANDS),
    RoutedPath("GET", "/problems/{name}", Upstream.COMMANDS),
    RoutedPath("GET", "/orders", Upstream.QUERIES),
    RoutedPath("GET", "/orders/{id}", Upstream.QUERIES),
    RoutedPath("GET", "/orders/{id}/history", Upstream.QUERIES),
    RoutedPath("GET", "/stock", Upstream.QUERIES),
    RoutedPath("GET", "/stock/{sku}", Upstream.QUERIES),
    RoutedPath("GET", "/payments/{order_id}", Upstream.QUERIES),
    RoutedPath("GET", "/shipments/{order_id}", Upstream.QUERIES),
    RoutedPath("GET", "/returns/{id}", Upstream.QUERIES),
    RoutedPath("GET", "/customers/{id}/summary", Upstream.QUERIES),
    RoutedPath("GET", "/sales/daily", Upstream.QUERIES),
    RoutedPath("GET", "/sagas", Upstream.QUERIES),
    RoutedPath("GET", "/sagas/{id}", Upstream.QUERIES),
    RoutedPath("GET", "/events", Upstream.QUERIES),
    RoutedPath("GET", "/projections", Upstream.QUERIES),
    RoutedPath("GET", "/parked", Upstream.QUERIES),
    # Last, so that a path above with another method is answered as what it is.
    RoutedPath("POST", "/{context}/{id}/{command}", Upstream.COMMANDS),
)
