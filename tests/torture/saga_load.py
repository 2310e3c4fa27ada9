"""Customers: they order, change their minds at random moments, get parcels, and send goods back.

What becomes of an order that nothing disturbs is settled when it is placed, by the seed. A
cancellation never races a delivery: which of the two wins there is a question for a person.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2 as httpx

RETRY_S = 0.1
LOOK_S = 1.0
ATTEMPT_TIMEOUT_S = 15.0
CANCEL_AFTER_S = 8.0
SKUS = 20
SCARCE = 4
SCARCE_QUANTITY = 40
PLENTY = 1_000_000

Fate = Literal["buys", "short", "scarce", "declined", "unshippable", "cancels", "returns"]
FATES: tuple[tuple[Fate, float], ...] = (
    ("buys", 0.48),
    ("cancels", 0.2),
    ("returns", 0.1),
    ("scarce", 0.12),
    ("short", 0.05),
    ("declined", 0.03),
    ("unshippable", 0.02),
)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the doors are that a customer, and a parcel, go through."""

    gateway: str
    query: str
    carrier: str


@dataclass
class Customers:
    """Places `orders` orders, at most `rate` a second, and does all that their fates say."""

    seed: int
    orders: int
    rate: float
    patience_s: float
    addresses: Addresses
    http: httpx.AsyncClient
    fates: Sequence[tuple[Fate, float]] = FATES
    placed: dict[str, Fate] = field(default_factory=dict)
    returns: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    retries: int = 0
    faults: list[str] = field(default_factory=list)

    async def fill_the_shelves(self) -> None:
        """Enough of some SKUs, too little of others."""
        for number in range(SKUS):
            await self._receive(f"sku-{number}", PLENTY)
        for number in range(SCARCE):
            await self._receive(f"scarce-{number}", SCARCE_QUANTITY)

    async def run(self) -> None:
        """Until every order was placed and every customer has done what they wanted."""
        customers = []
        due = time.monotonic()
        for number in range(self.orders):
            due = max(due + 1 / self.rate, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            customers.append(asyncio.create_task(self._customer(number)))
        await asyncio.gather(*customers)

    async def place(self, number: int, fate: Fate) -> str:
        """One order, repeated under its key until it is acknowledged; its id."""
        order_id = f"order-{self.seed}-{number}"
        body = order_body(fate, random.Random(f"{self.seed}-{number}"))
        answer = await self.command(f"/orders/{order_id}/place-order", body, f"place-{order_id}")
        if answer is None:
            self.faults.append(f"{order_id}: was refused")
        else:
            self.placed[order_id] = fate
        return order_id

    async def command(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any] | None:
        """A command until it is answered; None where a rule refuses it."""
        headers = {"Idempotency-Key": key}
        while True:
            url = self.addresses.gateway + path
            answer = await self._ask("POST", url, headers=headers, json=body)
            if answer is not None and answer.status_code in (200, 201):
                told: dict[str, Any] = answer.json()
                if told["events"]:
                    self.answers.append(told)
                return told
            if answer is not None and 400 <= answer.status_code < 500:
                return None
            self.retries += 1
            await asyncio.sleep(RETRY_S)

    # --- one customer -----------------------------------------------------------------------

    async def _customer(self, number: int) -> None:
        chance = random.Random(f"fate-{self.seed}-{number}")
        fates, shares = zip(*self.fates, strict=True)
        (fate,) = chance.choices(fates, shares)
        order_id = await self.place(number, fate)
        if fate == "cancels":
            await asyncio.sleep(chance.uniform(0, CANCEL_AFTER_S))
            reason = {"reason": "changed my mind"}
            await self.command(f"/orders/{order_id}/cancel-order", reason, f"cancel-{order_id}")
        elif fate == "returns":
            await self._send_back(order_id, chance)

    async def _send_back(self, order_id: str, chance: random.Random) -> None:
        """Wait for the parcel, and send a part of it back; an order that was cancelled is left."""
        order = await self._seen(f"/orders/{order_id}", {"confirmed", "cancelled"})
        if order is None or order["status"] == "cancelled":
            return
        await self._move(order_id, "delivered")
        if await self._seen(f"/orders/{order_id}", {"delivered"}) is None:
            return
        return_id = f"return-{order_id}"
        line = chance.choice(order["lines"])
        body = {
            "order_id": order_id,
            "lines": [{"sku": line["sku"], "quantity": chance.randint(1, line["quantity"])}],
            "reason": "too large",
        }
        path = f"/returns/{return_id}"
        if await self.command(f"{path}/request-return", body, f"ask-{return_id}") is None:
            self.faults.append(f"{order_id}: its return was refused")
            return
        self.returns.append(return_id)
        if await self._seen(path, {"labelled"}) is not None:
            await self.command(f"{path}/receive-returned-goods", {}, f"receive-{return_id}")

    async def _seen(self, path: str, statuses: set[str]) -> dict[str, Any] | None:
        """Wait until the queries show one of these; what is not shown in time is a fault."""
        until = time.monotonic() + self.patience_s
        status = "unseen"
        while time.monotonic() < until:
            answer = await self._ask("GET", self.addresses.query + path)
            if answer is not None and answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                status = found["status"]
                if status in statuses:
                    return found
            await asyncio.sleep(LOOK_S)
        self.faults.append(f"{path}: {status}, not {sorted(statuses)} in {self.patience_s} s")
        return None

    async def _move(self, order_id: str, status: str) -> None:
        """The carrier delivers. It may have to be told twice: its answer may be lost with it."""
        while True:
            url = f"{self.addresses.carrier}/parcels/{order_id}"
            answer = await self._ask("PUT", url, json={"status": status})
            if answer is not None and answer.status_code in (200, 404):
                return
            await asyncio.sleep(RETRY_S)

    async def _receive(self, sku: str, quantity: int) -> None:
        key = f"receive-{self.seed}-{sku}"
        await self.command(f"/inventory/{sku}/receive-stock", {"quantity": quantity}, key)

    async def _ask(self, method: str, url: str, **more: Any) -> httpx.Response | None:
        try:
            return await self.http.request(method, url, timeout=ATTEMPT_TIMEOUT_S, **more)
        except httpx.HTTPError:
            return None


def order_body(fate: Fate, chance: random.Random) -> dict[str, Any]:
    """An order of one line to three, as its fate wants it."""
    skus = [f"sku-{number}" for number in chance.sample(range(SKUS), chance.randint(1, 3))]
    if fate == "short":
        skus.append(f"never-received-{chance.randrange(3)}")
    if fate == "scarce":
        skus.append(f"scarce-{chance.randrange(SCARCE)}")
    customer = f"customer-{chance.randrange(100)}"
    return {
        "customer_id": f"declined-{customer}" if fate == "declined" else customer,
        "currency": "EUR",
        "lines": [
            {"sku": sku, "quantity": chance.randint(1, 3), "unit_price": chance.randint(100, 9_999)}
            for sku in skus
        ],
        "ship_to": {
            "name": "A. Person",
            "street": "1 Harbour Road",
            "city": "Bremen",
            "postal_code": "00000" if fate == "unshippable" else "28195",
            "country": "DE",
        },
    }


async def until(look: Callable[[], Awaitable[bool]], seconds: float, pause_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not await look():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(pause_s)
    return True
