"""A little data for a new stack, through the gateway's own door.

The idempotency keys are fixed: seeding again changes nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tidelog.errors import Unavailable

SEED_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 15.0
PAUSE_S = 0.2
_RETRIED = frozenset({502, 503, 504})
_TEA = "tea-earl-grey"
_ORDER = "demo-1"


@dataclass(frozen=True, kw_only=True)
class SeedCommand:
    """A command to send once, and the query that must show it."""

    path: str
    body: dict[str, Any]
    visible_at: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


SEED = (
    SeedCommand(
        path=f"/inventory/{_TEA}/receive-stock",
        body={"quantity": 100},
        visible_at=f"/stock/{_TEA}",
    ),
    SeedCommand(path="/inventory/tea-sencha/receive-stock", body={"quantity": 50}),
    SeedCommand(path="/inventory/pot-cast-iron/receive-stock", body={"quantity": 10}),
    SeedCommand(
        path=f"/orders/{_ORDER}/place-order",
        body={
            "customer_id": "demo-customer",
            "currency": "EUR",
            "lines": [
                {"sku": _TEA, "quantity": 2, "unit_price": 650},
                {"sku": "pot-cast-iron", "quantity": 1, "unit_price": 4900},
            ],
            "ship_to": {
                "name": "Ada Lovelace",
                "street": "12 St James's Square",
                "city": "London",
                "postal_code": "SW1Y 4JH",
                "country": "GB",
            },
        },
        visible_at=f"/orders/{_ORDER}",
    ),
)


def seed(gateway_url: str, timeout_s: float = SEED_TIMEOUT_S) -> None:
    """Send the seed and wait until the read models show it; raises Unavailable if they do not."""
    deadline = time.monotonic() + timeout_s
    with httpx2.Client(base_url=gateway_url, timeout=REQUEST_TIMEOUT_S) as client:
        tokens = [(command, _send(client, command, deadline)) for command in SEED]
        for command, token in tokens:
            if command.visible_at is not None:
                _until_ok(client, _question(client, command.visible_at, token), deadline)


def _send(client: httpx2.Client, command: SeedCommand, deadline: float) -> str:
    """Send one command, again while the answer is "try later"; returns its token."""
    key = "seed-" + command.path.strip("/").replace("/", "-")
    request = client.build_request(
        "POST", command.path, json=command.body, headers={"Idempotency-Key": key}
    )
    answer = _until_ok(client, request, deadline)
    return str(answer.json().get("token", ""))


def _question(client: httpx2.Client, path: str, token: str) -> httpx2.Request:
    headers = {"Consistency-Token": token} if token else {}
    return client.build_request("GET", path, headers=headers)


def _until_ok(client: httpx2.Client, request: httpx2.Request, deadline: float) -> httpx2.Response:
    while True:
        problem = "no answer"
        try:
            answer = client.send(request)
        except httpx2.TransportError as error:
            problem = str(error) or type(error).__name__
        else:
            if answer.is_success:
                return answer
            problem = f"{answer.status_code} {answer.text[:500]}"
            if answer.status_code not in _RETRIED:
                raise Unavailable(f"seeding: {request.method} {request.url.path}: {problem}")
        if time.monotonic() > deadline:
            raise Unavailable(f"seeding: {request.method} {request.url.path}: {problem}")
        time.sleep(PAUSE_S)
