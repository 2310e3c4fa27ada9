"""Commands of several contexts over HTTP, each repeated under its key until it is answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx2 as httpx

RETRY_S = 0.05
ATTEMPT_TIMEOUT_S = 15.0
SKUS = 20
REMEMBERED = 200
SHIP_TO = {
    "name": "A. Person",
    "street": "1 Harbour Road",
    "city": "Bremen",
    "postal_code": "28195",
    "country": "DE",
}
"""An address to which every carrier goes."""


@dataclass(frozen=True)
class Acknowledged:
    """What a client was told: the aggregate's context, its version and its token."""

    context: str
    answer: dict[str, Any]
    at: float

    @property
    def id(self) -> str:
        """The aggregate."""
        return str(self.answer["id"])

    @property
    def token(self) -> str:
        """Its last position."""
        return str(self.answer["token"])


class Command(NamedTuple):
    """A command on its way."""

    path: str
    body: dict[str, Any]
    key: str

    def as_line(self) -> str:
        """As a line of `POST /commands`."""
        _, context, aggregate_id, name = self.path.split("/")
        line = {"id": aggregate_id, "data": self.body, "idempotency_key": self.key}
        return json.dumps({"command": f"{context}/{name}", **line})


@dataclass
class Load:
    """Clients that send commands until `stopping`, at most `rate` a second together.

    With more than one of `lines` a request brings so many commands.
    """

    seed: int
    clients: int
    rate: float
    http: httpx.AsyncClient
    lines: int = 1
    sent: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    recent: deque[Acknowledged] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    refusals: int = 0
    retries: int = 0
    stopping: bool = False
    _due: float = 0.0

    async def run(self) -> None:
        """Send until told to stop; every command that was begun is brought to its answer."""
        self._due = time.monotonic()
        await asyncio.gather(*(self._client(number) for number in range(self.clients)))

    async def send(self, path: str, body: dict[str, Any], key: str) -> Acknowledged | None:
        """One command until it is answered; None where it was refused or changed nothing."""
        context = path.split("/")[1]
        while True:
            status, answer = await self._attempt(path, body, key)
            if status in (200, 201):
                return self._note(context, answer)
            if 400 <= status < 500:
                self.refusals += 1
                return None
            self.retries += 1
            await asyncio.sleep(RETRY_S)

    async def _send_lines(self, commands: list[Command]) -> None:
        """Many commands in one request, and again those that were not answered."""
        while commands:
            told = await self._attempt_lines(commands)
            if told is None:
                told = [{"status": 503}] * len(commands)
            again = []
            for command, line in zip(commands, told, strict=True):
                if line["status"] in (200, 201):
                    self._note(command.path.split("/")[1], line["result"])
                elif line["status"] < 500:
                    self.refusals += 1
                else:
                    again.append(command)
            self.retries += len(again)
            commands = again
            if again:
                await asyncio.sleep(RETRY_S)

    async def _attempt_lines(self, commands: list[Command]) -> list[dict[str, Any]] | None:
        content = "\n".join(command.as_line() for command in commands)
        headers = {"Content-Type": "application/x-ndjson"}
        try:
            answer = await self.http.post(
                "/commands", content=content, headers=headers, timeout=ATTEMPT_TIMEOUT_S
            )
        except httpx.HTTPError:
            return None
        if answer.status_code >= 500:
            return None
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        orders: deque[tuple[str, str]] = deque(maxlen=50)
        count = 0
        while not self.stopping:
            await self._wait_for_its_turn()
            commands = []
            for _ in range(self.lines):
                count += 1
                name = f"{self.seed}-{number}-{count}"
                commands.append(Command(*_any_command(name, orders, chance), f"key-{name}"))
            if self.lines == 1:
                await self.send(*commands[0])
            else:
                await self._send_lines(commands)
            self.sent += self.lines

    async def _wait_for_its_turn(self) -> None:
        """Hold the rate; what an outage has cost is not caught up."""
        now = time.monotonic()
        self._due = max(self._due + self.lines / self.rate, now)
        await asyncio.sleep(self._due - now)

    async def _attempt(self, path: str, body: dict[str, Any], key: str) -> tuple[int, Any]:
        headers = {"Idempotency-Key": key}
        try:
            answer = await self.http.post(
                path, json=body, headers=headers, timeout=ATTEMPT_TIMEOUT_S
            )
        except httpx.HTTPError:
            return 0, None
        return answer.status_code, answer.json() if answer.status_code < 300 else None

    def _note(self, context: str, answer: dict[str, Any]) -> Acknowledged | None:
        if not answer["events"]:
            return None
        self.answers.append(answer)
        told = Acknowledged(context, answer, time.monotonic())
        self.recent.append(told)
        return told


def place_order(name: str, chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A new order of one line or two."""
    skus = chance.sample(range(SKUS), chance.randint(1, 2))
    return f"/orders/order-{name}/place-order", {
        "customer_id": f"customer-{chance.randrange(100)}",
        "currency": "EUR",
        "lines": [
            {"sku": f"sku-{sku}", "quantity": chance.randint(1, 3), "unit_price": 1000}
            for sku in skus
        ],
        "ship_to": SHIP_TO,
    }


def _any_command(
    name: str, orders: deque[tuple[str, str]], chance: random.Random
) -> tuple[str, dict[str, Any]]:
    """A new order, one that is cancelled, or pieces that come, are kept, and go."""
    what = chance.random()
    sku = f"sku-{chance.randrange(SKUS)}"
    if what < 0.35 or not orders:
        orders.append((f"order-{name}", sku))
        return place_order(name, chance)
    order_id, its_sku = chance.choice(orders)
    if what < 0.5:
        return f"/orders/{order_id}/cancel-order", {"reason": "changed my mind"}
    if what < 0.7:
        return f"/inventory/{sku}/receive-stock", {"quantity": chance.randint(1, 5)}
    if what < 0.85:
        quantity = chance.randint(1, 3)
        return f"/inventory/{its_sku}/reserve-stock", {"order_id": order_id, "quantity": quantity}
    verb = chance.choice(["release-stock", "sell-stock"])
    return f"/inventory/{its_sku}/{verb}", {"order_id": order_id}
