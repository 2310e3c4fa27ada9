"""A short sample of `./dev torture sagas`, on a whole system of its own."""

from __future__ import annotations

import asyncio

from tests.torture.saga_faults import KILLED
from tests.torture.saga_run import Plan, SagaRun
from tests.torture.system import system

SEED = 12


def test_orders_end_and_all_books_balance_when_everything_that_leads_them_is_killed() -> None:
    # given customers who order, cancel and send back, and a provider and carriers that misbehave
    plan = Plan(
        seed=SEED,
        orders=30,
        rate=3,
        failures=0.2,
        kills=len(KILLED),
        postgres_kills=1,
        kafka_kills=0,
        bound_s=300,
    )
    with system(None) as dev_file:
        # when every part that leads an order is killed once, and PostgreSQL as well
        result = asyncio.run(SagaRun(dev_file, plan).play())
    # then each order stands or is undone, and our books are those of the world outside
    assert result.faults == [], f"seed {SEED}"
    assert set(result.kills) == {*KILLED, "postgres"}
    assert result.placed == plan.orders
    assert result.kept == result.captured - result.refunded
