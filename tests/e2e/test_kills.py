"""A short sample of `./dev torture kills`, on a whole system of its own."""

from __future__ import annotations

import asyncio

from tests.torture.kills import Run
from tests.torture.system import system

SEED = 11


def test_killed_services_lose_double_and_tear_nothing() -> None:
    # given a system under load from clients that retry with their keys
    with system(None) as dev_file:
        # when its command service is killed twice at random moments
        result = asyncio.run(Run(dev_file, SEED, kills=2, clients=4).play())
    # then an independent reader finds every acknowledged event exactly once and in order
    assert result.faults == [], f"seed {SEED}"
    assert result.kills == 2
    assert result.answers
