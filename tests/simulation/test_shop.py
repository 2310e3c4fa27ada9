"""The whole shop, thousands of orders in random order: every process ends, and all balances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.simulation.shop import SKUS, Shop
from tidelog.engine.reacting import Instance
from tidelog.saga import ENDS

# What an aggregate may say no to on the way, and is no fault: a second or a late word.
EXPECTED_REFUSALS = frozenset(
    {
        "OrderAlreadyDelivered",
        "MoreReturnedThanBought",
        "OrderAlreadyCancelled",
        "OrderNeverPlaced",
        "OrderNotDelivered",
        "PaymentAlreadyCaptured",
        "ReturnAlreadyFailed",
        "ShipmentAlreadyCancelled",
        "ShipmentNotArranged",
        "StockNotSold",
    }
)


@pytest.mark.parametrize("seed", range(60))
def test_every_process_ends_and_stock_and_money_balance(seed: int) -> None:
    shop = Shop(seed)
    orders = [f"o-{number}" for number in range(20)]
    sent_back = [f"r-{number}" for number in range(8)]
    shop.stock(quantity=30)
    for order_id in orders:
        shop.place(order_id)
        for _ in range(shop.rng.randint(0, 60)):
            shop.step()
        if shop.rng.random() < 0.4:
            shop.cancel(shop.rng.choice(orders))
    shop.settle()
    for return_id in sent_back:
        shop.send_back(return_id, shop.rng.choice(orders))
        for _ in range(shop.rng.randint(0, 20)):
            shop.step()

    shop.settle()

    check_all(shop, orders, sent_back)


@pytest.mark.parametrize("seed", range(40))
def test_orders_that_an_operator_turns_back_at_any_time_balance(seed: int) -> None:
    shop = Shop(seed)
    orders = [f"o-{number}" for number in range(20)]
    shop.stock(quantity=30)
    refused = []
    for number, order_id in enumerate(orders):
        shop.place(order_id)
        for _ in range(shop.rng.randint(0, 60)):
            shop.step()
            if shop.rng.random() < 0.05:
                refused.append(shop.decide(shop.rng.choice(orders[: number + 1]), "compensate"))

    shop.settle()

    assert "" in refused, "some were carried out"
    check_all(shop, orders, [])


@pytest.mark.parametrize("seed", range(40))
def test_returns_that_an_operator_turns_back_at_any_time_balance(seed: int) -> None:
    shop = Shop(seed)
    orders = [f"o-{number}" for number in range(12)]
    sent_back = [f"r-{number}" for number in range(12)]
    shop.stock(quantity=30)
    for order_id in orders:
        shop.place(order_id)
    shop.settle()
    decided = []
    for return_id in sent_back:
        shop.send_back(return_id, shop.rng.choice(orders))
    # The goods come back over weeks: between two things, somebody may decide about any of them.
    for _ in range(100_000):
        if not shop.step() and not shop.pass_time():
            break
        if shop.rng.random() < 0.05:
            chosen = shop.rng.choice(sent_back)
            decided.append(shop.decide(chosen, "compensate", saga="returns"))

    assert "" in decided, "some were carried out"
    check_all(shop, orders, sent_back)


@pytest.mark.parametrize("seed", range(40))
def test_what_an_operator_skips_harms_no_other_order_and_every_order_ends(seed: int) -> None:
    """A skip contradicts the books of its own order; all others balance, and none is stuck."""
    shop = Shop(seed)
    orders = [f"o-{number}" for number in range(20)]
    steps = [step for step, answers in shop.reactors["fulfilment"].skips().items() if answers]
    shop.stock(quantity=30)
    skipped = set()
    for number, order_id in enumerate(orders):
        shop.place(order_id)
        for _ in range(shop.rng.randint(0, 60)):
            shop.step()
            chosen = shop.rng.choice(orders[: number + 1])
            if shop.rng.random() < 0.01:
                shop.cancel(chosen)
            if shop.rng.random() < 0.2 and not shop.decide(chosen, "skip", shop.rng.choice(steps)):
                skipped.add(chosen)
    shop.settle()

    # Goods that were given back and then delivered all the same are still to be sold.
    for order_id in orders:
        if shop.instances["fulfilment", order_id].stuck:
            assert order_id in skipped
            assert shop.decide(order_id, "skip", "sell-stock") == ""
    shop.settle()

    assert skipped, "some were carried out"
    for order_id in orders:
        instance = shop.instances["fulfilment", order_id]
        assert instance.phase in ENDS and instance.stuck == "", described(instance)
        left = shop.captured.get(order_id, 0) - shop.refunded.get(order_id, 0)
        assert 0 <= left <= shop.states["orders", order_id].content.total, described(instance)
        if order_id not in skipped:
            check_order(shop, order_id)
    for sku in SKUS:
        item = shop.states["inventory", sku]
        assert 0 <= item.reserved <= item.on_hand


def check_all(shop: Shop, orders: Sequence[str], sent_back: Sequence[str]) -> None:
    """Every process has ended, all balances, and nobody said no without a reason."""
    for order_id in orders:
        check_order(shop, order_id)
    for return_id in sent_back:
        check_return(shop, return_id)
    for sku in SKUS:
        check_stock(shop, sku)
    assert {type(rule).__name__ for *_, rule in shop.refusals} <= EXPECTED_REFUSALS


def check_order(shop: Shop, order_id: str) -> None:
    instance = shop.instances["fulfilment", order_id]
    order = shop.states["orders", order_id]
    assert instance.phase in ENDS and instance.stuck == "", described(instance)
    stands = order.status in ("confirmed", "delivered", "returned")
    assert stands or order.status == "cancelled", described(instance)
    left = shop.captured.get(order_id, 0) - shop.refunded.get(order_id, 0)
    assert left == (100 * sum(kept(order).values()) if stands else 0), described(instance)


def check_return(shop: Shop, return_id: str) -> None:
    instance = shop.instances["returns", return_id]
    taken_back = shop.states["returns", return_id].status == "completed"
    assert instance.phase in ENDS and instance.stuck == "", described(instance)
    assert (instance.phase == "completed") == taken_back, described(instance)


def check_stock(shop: Shop, sku: str) -> None:
    item = shop.states["inventory", sku]
    gone = sum(
        kept(order).get(sku, 0)
        for (context, _), order in shop.states.items()
        if context == "orders" and order.status in ("confirmed", "delivered", "returned")
    )
    assert (item.on_hand, item.reserved) == (30 - gone, 0)


def kept(order: Any) -> dict[str, int]:
    """How many pieces of each SKU the customer has in the end."""
    return {
        line.sku: line.quantity - order.returned.get(line.sku, 0) for line in order.content.lines
    }


def described(instance: Instance[Any]) -> str:
    steps = "\n".join(
        f"  {each.kind} {each.step} {each.subject}: {each.status} {each.event_type or ''}"
        for each in instance.steps
    )
    return f"{instance.key} is {instance.phase}, {instance.stuck}, {instance.state}\n{steps}"
