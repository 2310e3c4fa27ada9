"""A short sample of `./dev torture read-side`, on a whole system of its own."""

from __future__ import annotations

import asyncio

from tests.torture.read_side import ReadSideRun
from tests.torture.system import system

SEED = 5


def test_read_models_outlive_the_kill_of_all_that_they_stand_on() -> None:
    # given a system under load, with readers that hold its answers against one another
    with system(None) as dev_file:
        # when its projectors, its PostgreSQL and its Kafka are killed, one after the other
        run = ReadSideRun(dev_file, SEED, kills=3, clients=4, rate=60, with_others=False)
        result = asyncio.run(run.play())
    # then every read model is the fold of the log, and nobody was told what was not so
    assert result.faults == [], f"seed {SEED}"
    assert set(result.kills.values()) == {1}
    assert result.seen.token_reads
    assert {"order_detail", "stock_level"} <= set(result.verified)
