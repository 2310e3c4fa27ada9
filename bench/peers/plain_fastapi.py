"""R2's peer: the least that FastAPI can do with the same body: check it, answer 201."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel


class Line(BaseModel):
    """One line of an order."""

    sku: str
    quantity: int
    unit_price: int


class Address(BaseModel):
    """Where a parcel goes."""

    name: str
    street: str
    city: str
    postal_code: str
    country: str


class Order(BaseModel):
    """The body."""

    customer_id: str
    currency: str
    lines: list[Line]
    ship_to: Address


app = FastAPI()


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ready"}


@app.post("/orders/{order_id}/place-order", status_code=201)
async def place_order(order_id: str, order: Order) -> dict[str, object]:
    """Nothing is kept."""
    return {"id": order_id, "version": 1, "lines": len(order.lines)}
