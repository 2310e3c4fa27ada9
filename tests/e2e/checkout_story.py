"""The story of the last piece: who checks out first has it, and the next is told at once."""

from __future__ import annotations

import uuid

import httpx2

from tests.integration.command_server import order_body
from tests.log_writer import until

DONE_S = 60.0


def check_out(client: httpx2.Client) -> None:
    """Live through it at the gateway of a whole system; the system does the rest by events."""
    sku, key = new_id(), new_id()

    def checkout(key: str, wanted: str = sku) -> httpx2.Response:
        body = order_body(lines=[{"sku": wanted, "quantity": 1, "unit_price": 1}])
        return client.post("/checkout", json=body, headers={"Idempotency-Key": key})

    def receive(quantity: int) -> str:
        answer = client.post(f"/inventory/{sku}/receive-stock", json={"quantity": quantity})
        return str(answer.headers["consistency-token"])

    def available(token: str = "") -> int:
        headers = {"Consistency-Token": token} if token else {}
        found = client.get(f"/stock/{sku}?wait_ms=10000", headers=headers).json()
        return int(found["available"])

    assert available(receive(1)) == 1
    first = checkout(key)
    assert first.status_code == 201, first.text
    assert (first.json()["status"], first.json()["stock"]["checked"]) == ("placed", True)
    until(lambda: available() == 0, "the saga reserves the piece", DONE_S)

    again = checkout(key)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert again.json()["replayed"]
    assert refused(checkout(new_id()))
    assert refused(checkout(new_id(), wanted=new_id()))

    links = first.json()["links"]
    done = ("confirmed", "delivered")
    until(lambda: client.get(links["order"]).json()["status"] in done, "it is confirmed", DONE_S)
    assert client.get(links["overview"]).status_code == 200

    assert available(receive(1_000)) > 0
    until(lambda: estimated(checkout(new_id())), "somebody knows how long it takes", DONE_S)


def new_id() -> str:
    """An id that nobody has used."""
    return f"c-{uuid.uuid4().hex[:12]}"


def refused(answer: httpx2.Response) -> bool:
    """Whether there is too little, and the line is named."""
    assert answer.json()["type"] == "/problems/insufficient-stock", answer.text
    return [each["pointer"] for each in answer.json()["errors"]] == ["/lines/0/quantity"]


def estimated(answer: httpx2.Response) -> bool:
    """Whether a checkout was told when it will be done."""
    assert answer.status_code == 201, answer.text
    estimate = answer.json()["estimated_completion"]
    if estimate is None:
        return False
    assert estimate["samples"] >= 1
    assert 0 < estimate["seconds"]["p50"] <= (estimate["seconds"]["p95"] or float("inf"))
    return True
