"""A little data for a new stack, through the gateway's own door.

Seeding again changes nothing: each command begins something new, or is refused. Its key is fixed,
so that one whose answer was lost is told as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tidelog.errors import Unavailable

SEED_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 15.0
PAUSE_S = 0.2
KEY_PREFIX = "seed-"
_RETRIED = frozenset({502, 503, 504})
_STALE = 412
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


class _Visit:
    """One seeding: its client, its deadline, and whether it is still wanted."""

    def __init__(self, client: httpx2.Client, timeout_s: float, wanted: Callable[[], bool]) -> None:
        self._client = client
        self._deadline = time.monotonic() + timeout_s
        self._wanted = wanted

    def send(self, command: SeedCommand) -> str:
        """Send one command and return its token; none where there is something already."""
        key = KEY_PREFIX + command.path.strip("/").replace("/", "-")
        headers = {"Idempotency-Key": key, "If-Match": '"0"'}
        request = self._client.build_request(
            "POST", command.path, json=command.body, headers=headers
        )
        return str(self._until_ok(request).json().get("token", ""))

    def see(self, path: str, token: str) -> None:
        """Ask until the read model has reached the token."""
        headers = {"Consistency-Token": token} if token else {}
        self._until_ok(self._client.build_request("GET", path, headers=headers))

    def _until_ok(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, again while the answer is "try later"."""
        while True:
            problem = "no answer"
            try:
                answer = self._client.send(request)
            except httpx2.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if answer.is_success or answer.status_code == _STALE:
                    return answer
                problem = f"{answer.status_code} {answer.text[:500]}"
                if answer.status_code not in _RETRIED:
                    raise _failed(request, problem)
            if time.monotonic() > self._deadline or not self._wanted():
                raise _failed(request, problem)
            time.sleep(PAUSE_S)


def seed(
    gateway_url: str,
    timeout_s: float = SEED_TIMEOUT_S,
    wanted: Callable[[], bool] = lambda: True,
    authorization: Mapping[str, str] | None = None,
) -> None:
    """Send the seed and wait until the read models show it.

    Raises Unavailable when they do not in time, or when `wanted` says no.
    """
    with httpx2.Client(
        base_url=gateway_url, timeout=REQUEST_TIMEOUT_S, headers=dict(authorization or {})
    ) as client:
        visit = _Visit(client, timeout_s, wanted)
        tokens = [(command, visit.send(command)) for command in SEED]
        for command, token in tokens:
            if command.visible_at is not None:
                visit.see(command.visible_at, token)


def _failed(request: httpx2.Request, problem: str) -> Unavailable:
    return Unavailable(f"seeding: {request.method} {request.url.path}: {problem}")
