"""The shop as the demonstration meets it: over HTTP only, each step told plainly.

What is posted and what came back is printed as it is; the timelines are the sagas' own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx2

from tidelog.errors import Unavailable

TIMEOUT_S = 20.0
WAIT_S = 60.0
SETTLE_S = 5.0
POLL_S = 0.2
PRICE = 790
BREAKER = 'tidelog_breaker_state{dependency="payment_provider"}'
BREAKER_STATES = ("closed", "half-open", "open")
HOME = {
    "name": "Ada",
    "street": "1 Harbour Road",
    "city": "Bremen",
    "postal_code": "28195",
    "country": "DE",
}


class DemoShop:
    """A running shop. `urls` are those of dev.json; `effects` those of the effects' processes.

    `authorization` is shown at the gateway, and nowhere else.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        effects: Sequence[str],
        run: str,
        authorization: Mapping[str, str] | None = None,
    ) -> None:
        self._urls = urls
        self._authorization = dict(authorization or {})
        self._effects = effects
        self._run = run
        self._http = httpx2.Client(timeout=TIMEOUT_S, trust_env=False)
        self.sku = f"tea-{run}"
        self.orders: dict[str, int] = {}
        """What each order costs."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- what people do ---------------------------------------------------------------------

    def receive(self, quantity: int) -> None:
        """Stock comes in."""
        self._command(f"/inventory/{self.sku}/receive-stock", {"quantity": quantity})

    def place(self, name: str, quantity: int = 1, *, quiet: bool = False, **odd: str) -> str:
        """A customer orders tea; `odd` says what is different about them. The order's id."""
        order_id = f"{name}-{self._run}"
        self.orders[order_id] = quantity * PRICE
        body = {
            "customer_id": odd.get("customer_id", "ada"),
            "currency": "EUR",
            "lines": [{"sku": odd.get("sku", self.sku), "quantity": quantity, "unit_price": PRICE}],
            "ship_to": {**HOME, "postal_code": odd.get("postal_code", HOME["postal_code"])},
        }
        self._command(f"/orders/{order_id}/place-order", body, quiet=quiet)
        return order_id

    def cancel(self, order_id: str) -> None:
        """The customer cancels."""
        self._command(f"/orders/{order_id}/cancel-order", {"reason": "changed my mind"})

    # --- what became of it ------------------------------------------------------------------

    def saga(self, order_id: str) -> dict[str, Any]:
        """The order's fulfilment; empty before it has begun."""
        answer = self._get("gateway", f"/sagas/fulfilment:{order_id}")
        return dict(answer.json()) if answer.status_code == httpx2.codes.OK else {}

    def wait(self, order_id: str, *ends: str) -> dict[str, Any]:
        """The order's fulfilment once it has ended so."""

        def ended() -> dict[str, Any] | None:
            found = self.saga(order_id)
            return found if found.get("status") in ends else None

        found: dict[str, Any] = self.until(ended, f"{order_id} to be {' or '.join(ends)}")
        return found

    def stock(self) -> Mapping[str, int]:
        """On hand, reserved, available."""
        answer = self._get("gateway", f"/stock/{self.sku}")
        found = answer.json() if answer.status_code == httpx2.codes.OK else {}
        return {name: int(found.get(name, 0)) for name in ("on_hand", "reserved", "available")}

    def settled_stock(self) -> Mapping[str, int]:
        """The same once nothing is reserved, or after some seconds: read models come behind."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self.stock())["reserved"] and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return found

    def order_status(self, order_id: str) -> str:
        """How the order stands, as the read model says."""
        answer = self._get("gateway", f"/orders/{order_id}")
        found = answer.json() if answer.status_code == httpx2.codes.OK else {}
        return str(found.get("status", "not visible"))

    def payment(self, order_id: str) -> tuple[int, int]:
        """Captured and refunded, in our books."""
        answer = self._get("gateway", f"/payments/{order_id}")
        found = answer.json() if answer.status_code == httpx2.codes.OK else {}
        return int(found.get("captured") or 0), int(found.get("refunded") or 0)

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Captured and refunded by order, in the provider's books."""
        found = dict.fromkeys(self.orders, (0, 0))
        for entry in self._get("payment_provider", "/ledger").json():
            if entry["order_id"] in found and entry["kind"] != "void":
                captured, refunded = found[entry["order_id"]]
                taken = entry["amount"] if entry["kind"] == "capture" else 0
                paid_back = entry["amount"] if entry["kind"] == "refund" else 0
                found[entry["order_id"]] = (captured + taken, refunded + paid_back)
        return found

    def ledger_entries(self) -> dict[str, list[str]]:
        """What the provider has entered, by order: `capture 1000`, in order."""
        found: dict[str, list[str]] = {}
        for entry in self._get("payment_provider", "/ledger").json():
            found.setdefault(entry["order_id"], []).append(f"{entry['kind']} {entry['amount']}")
        return found

    # --- the provider -----------------------------------------------------------------------

    def behaviour(self) -> dict[str, Any]:
        """How the provider behaves."""
        return dict(self._get("payment_provider", "/behaviour").json())

    def behave(self, behaviour: Mapping[str, Any]) -> None:
        """From now on the provider behaves so."""
        url = self._urls["payment_provider"]
        tell(f"  PUT {url}/behaviour {_short(behaviour)}")
        answer = self._http.put(f"{url}/behaviour", json=dict(behaviour))
        answer.raise_for_status()
        tell(f"    {answer.status_code}")

    def breaker(self) -> str:
        """How the provider's breaker stands: of several processes', the furthest open."""
        pages = [self._http.get(f"{url}/metrics").text for url in self._effects]
        states = [
            int(float(line.rpartition(" ")[2]))
            for page in pages
            for line in page.splitlines()
            if line.startswith(BREAKER)
        ]
        return BREAKER_STATES[max(states, default=0)]

    # --- parts ------------------------------------------------------------------------------

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """What `look` finds, once it finds something; Unavailable after a minute."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(POLL_S)
        raise Unavailable(f"waited {WAIT_S:.0f} s for {what}")

    def _command(self, path: str, body: Mapping[str, Any], *, quiet: bool = False) -> None:
        answer = self._http.post(
            self._urls["gateway"] + path, json=dict(body), headers=self._authorization
        )
        if answer.is_error:
            raise Unavailable(f"POST {path}: {answer.status_code} {answer.text}")
        if not quiet:
            tell(f"  POST {path} {_short(body)}")
            events = ", ".join(f"{e['type']} at {e['position']}" for e in answer.json()["events"])
            tell(f"    {answer.status_code} {events}")

    def _get(self, part: str, path: str) -> httpx2.Response:
        headers = self._authorization if part == "gateway" else {}
        return self._http.get(self._urls[part] + path, headers=headers)


def tell(text: str = "") -> None:
    """A line of the demonstration."""
    print(text, flush=True)


def show_timeline(saga: Mapping[str, Any]) -> None:
    """The steps of an instance, with what answered them."""
    lasted = "" if saga["status"] == "running" else f" after {saga['age_seconds']:.1f} s"
    tell(f"  {saga['id']} is {saga['status']}{lasted}")
    for step in saga["steps"]:
        answer = step["event_type"] or step["reason"] or ""
        tries = "" if step["attempts"] <= 1 else f" in {step['attempts']} tries"
        tell(f"    {step['kind']:<13}{step['step']:<22}{step['status']:<9}{answer}{tries}")


def show_stock(stock: Mapping[str, int]) -> None:
    """The counts of the shelf."""
    tell("  stock: " + ", ".join(f"{name} {count}" for name, count in stock.items()))


def _short(body: Mapping[str, Any]) -> str:
    """What is posted, without the address, which is long."""
    shown = {name: value for name, value in body.items() if name != "ship_to"}
    if "ship_to" in body:
        shown["ship_to"] = {"postal_code": body["ship_to"]["postal_code"], "…": "…"}
    return json.dumps(shown, ensure_ascii=False)
