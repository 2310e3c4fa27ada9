"""Every route of the public door, what it needs to be answered, and why; and a question for each.

The routes are those of the gateway itself: one that is added there and not here is a fault of the
run. A need that is listed here is not a wish but a reason: what stands in `why` must bear it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry

from gateway.app import build
from gateway.proxy import ProxyRoute
from gateway.routes import COMMANDS, RoutedPath
from tests.torture.read_side_load import SHIP_TO
from tests.torture.saga_load import PLENTY
from tidelog.settings import Settings

COMMAND_SERVICE, QUERY_SERVICE, POSTGRES = "command_service", "query_service", "postgres"


class Needs(NamedTuple):
    """The parts without which a route cannot be answered."""

    parts: frozenset[str]
    why: str


def _needs(*parts: str, why: str) -> Needs:
    return Needs(frozenset(parts), why)


DECIDED: Final = _needs(
    COMMAND_SERVICE,
    why="a command: its owner decides it from memory and the log, and asks nobody else",
)
QUEUED: Final = _needs(
    COMMAND_SERVICE,
    POSTGRES,
    why="a queued command: its outcome is kept in PostgreSQL, where every instance finds it",
)
PAGES: Final = _needs(COMMAND_SERVICE, why="pages that the command service makes of its own types")
READ: Final = _needs(QUERY_SERVICE, POSTGRES, why="a query: it reads rows of a read model")
INDEXED: Final = _needs(
    QUERY_SERVICE, POSTGRES, why="a query: it reads the index of events, which lies beside the rows"
)
MEASURED: Final = _needs(
    QUERY_SERVICE, POSTGRES, why="the state of the read models, told by the database and the log"
)
COUNTED: Final = _needs(
    QUERY_SERVICE, why="live figures: they are counted from the log, and no row is read"
)
GATHERED: Final = _needs(
    why="the overview: each part has a deadline of its own, what is not told in time is named"
)
HYBRID: Final = _needs(
    COMMAND_SERVICE,
    why="checkout: the order is a command; stock that cannot be asked for is left to the saga",
)

COMMAND: Final = "POST /{context}/{id}/{command}"
NEEDS: Final[Mapping[str, Needs]] = {
    COMMAND: DECIDED,
    "POST /commands": DECIDED,
    "POST /checkout": HYBRID,
    "GET /operations/{id}": QUEUED,
    "GET /openapi.json": PAGES,
    "GET /docs": PAGES,
    "GET /problems": PAGES,
    "GET /problems/{name}": PAGES,
    "GET /orders": READ,
    "GET /orders/{id}": READ,
    "GET /orders/{id}/history": INDEXED,
    "GET /orders/{id}/live": INDEXED,
    "GET /orders/{id}/overview": GATHERED,
    "GET /stock": READ,
    "GET /stock/{sku}": READ,
    "GET /stock/{sku}/history": INDEXED,
    "GET /payments/{order_id}": READ,
    "GET /payments/{order_id}/history": INDEXED,
    "GET /shipments/{order_id}": READ,
    "GET /shipments/{order_id}/history": INDEXED,
    "GET /returns/{id}": READ,
    "GET /returns/{id}/history": INDEXED,
    "GET /customers/{id}/summary": READ,
    "GET /sales/daily": READ,
    "GET /metrics/live": COUNTED,
    "GET /sagas": READ,
    "GET /sagas/{id}": READ,
    "GET /events": INDEXED,
    "GET /projections": MEASURED,
    "GET /parked": READ,
}

SKU: Final = "always-there"
CUSTOMER: Final = "customer-1"
RECEIVE: Final = "inventory/receive-stock"
PLACE, CANCEL = "orders/place-order", "orders/cancel-order"
CARRIED_OUT: Final = frozenset((PLACE, CANCEL, RECEIVE))
"""The others are sent for a version that there is not: they are decided, and leave nothing."""

NO_VERSION: Final = {"If-Match": '"999999"'}


class Question(NamedTuple):
    """A request of one route."""

    row: str
    needs: Needs
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    streams: bool = False


class Made(NamedTuple):
    """What the questions are about: an order, and an operation."""

    order_id: str
    operation_id: str


def public_paths() -> list[RoutedPath]:
    """Every path that the gateway routes."""
    routes = build(Settings(), CollectorRegistry()).app.router.routes
    return [route.routed for route in routes if isinstance(route, ProxyRoute)]


def unexpected(paths: Sequence[RoutedPath]) -> list[str]:
    """The routes of which nobody has said what they need."""
    return [each for each in map(_name, paths) if each not in NEEDS]


def questions(
    paths: Sequence[RoutedPath], examples: Mapping[str, Any], made: Made, fresh: str
) -> list[Question]:
    """One for each route and each command; `fresh` is a name that no order has had."""
    known = [path for path in paths if _name(path) in NEEDS]
    return [question for path in known for question in _questions(path, examples, made, fresh)]


def order_body() -> dict[str, Any]:
    """An order that can be fulfilled while the shelf is full."""
    return {
        "customer_id": CUSTOMER,
        "currency": "EUR",
        "lines": [{"sku": SKU, "quantity": 1, "unit_price": 1_000}],
        "ship_to": SHIP_TO,
    }


def _questions(
    path: RoutedPath, examples: Mapping[str, Any], made: Made, fresh: str
) -> Iterator[Question]:
    row = _name(path)
    needs = NEEDS[row]
    if row == COMMAND:
        for number, name in enumerate(COMMANDS):
            yield _command(name, examples, made, f"{fresh}-{number}")
        yield _queued(f"{fresh}-queued")
    elif path.method == "GET":
        yield Question(row, needs, "GET", _filled(path.template, made), streams=path.streams)
    elif row == "POST /commands":
        line = {"command": PLACE, "id": f"{fresh}-line", "data": order_body()}
        headers = {"Content-Type": "application/x-ndjson"}
        yield Question(row, needs, "POST", path.template, json.dumps(line).encode(), headers)
    else:
        assert row == "POST /checkout", f"{row}: nobody has said how to ask it"
        body = json.dumps({**order_body(), "order_id": f"{fresh}-checkout"}).encode()
        yield Question(row, needs, "POST", path.template, body, _json(f"{fresh}-checkout"))


def _command(name: str, examples: Mapping[str, Any], made: Made, fresh: str) -> Question:
    context, _, command = name.partition("/")
    row = f"POST /{context}/{{id}}/{command}"
    id_in_path, body = fresh, examples[name]
    headers = _json(fresh)
    if name == PLACE:
        body = order_body()
    elif name == CANCEL:
        id_in_path = made.order_id
    elif name == RECEIVE:
        id_in_path, body = SKU, {"quantity": PLENTY}
    if name not in CARRIED_OUT:
        headers |= NO_VERSION
    path = f"/{context}/{id_in_path}/{command}"
    return Question(row, DECIDED, "POST", path, json.dumps(body).encode(), headers)


def _queued(id: str) -> Question:
    headers = {**_json(id), "Prefer": "respond-async"}
    path = f"/orders/{id}/place-order"
    row = "POST /orders/{id}/place-order, Prefer: respond-async"
    return Question(row, QUEUED, "POST", path, json.dumps(order_body()).encode(), headers)


def _json(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Idempotency-Key": f"key-{key}"}


def _name(path: RoutedPath) -> str:
    return f"{path.method} {path.template}"


def _filled(template: str, made: Made) -> str:
    """The path with ids in it: those of `made`, each where it belongs."""
    by_folder = {
        "operations": made.operation_id,
        "problems": "unavailable",
        "stock": SKU,
        "customers": CUSTOMER,
        "sagas": f"fulfilment:{made.order_id}",
        "returns": f"return-{made.order_id}",
    }
    segments = template.split("/")
    value = by_folder.get(segments[1], made.order_id)
    return "/".join(value if each.startswith("{") else each for each in segments)
