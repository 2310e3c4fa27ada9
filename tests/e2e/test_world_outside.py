"""An order in the whole system, as a stranger sees it in the books of the world outside."""

from __future__ import annotations

import json

import httpx2 as httpx

from tests.log_writer import until
from tests.torture.system import system

WAIT_S = 90.0
HOME = {"name": "A", "street": "B", "city": "C", "postal_code": "1", "country": "DE"}
LINE = {"sku": "tea", "quantity": 1, "unit_price": 790}
ORDER = {"customer_id": "c", "currency": "EUR", "lines": [LINE], "ship_to": HOME}


def test_an_order_is_paid_taken_by_a_carrier_and_its_customer_told() -> None:
    with system(None) as dev_file, httpx.Client(trust_env=False, timeout=20) as client:
        urls = {
            name: part["url"]
            for name, part in json.loads(dev_file.read_text()).items()
            if name in ("gateway", "payment_provider", "carrier", "mail")
        }

        def entered(simulator: str) -> list[tuple[str, str]]:
            entries = client.get(urls[simulator] + "/ledger").json()
            return [(entry["order_id"], entry["kind"]) for entry in entries]

        gateway = urls["gateway"]
        client.post(f"{gateway}/inventory/tea/receive-stock", json={"quantity": 1})
        client.post(f"{gateway}/orders/o-1/place-order", json=ORDER).raise_for_status()

        assert until(lambda: entered("carrier"), "a booking", WAIT_S) == [("o-1", "book")]
        assert entered("payment_provider") == [("o-1", "capture")]

        def told() -> list[str]:
            messages = client.get(f"{urls['mail']}/messages?to=c@customers.example").json()
            return [message["subject"] for message in messages]

        assert until(told, "a mail", WAIT_S) == ["Your order o-1 is confirmed"]
