"""A short sample of `./dev torture dependencies`, on a whole system of its own."""

from __future__ import annotations

import asyncio

from tests.torture.dependencies import DependencyRun, Fault
from tests.torture.dependency_table import describe
from tests.torture.route_needs import POSTGRES, QUERY_SERVICE
from tests.torture.system import system

FAULTS = (Fault(QUERY_SERVICE, hangs=False), Fault(POSTGRES, hangs=True))


def test_no_route_falls_that_does_not_need_what_has_fallen() -> None:
    # given a whole system, when one part after the other does not answer, and is healed
    with system(None) as dev_file:
        result = asyncio.run(DependencyRun(dev_file, FAULTS).play())
    # then the routes that need nothing of it are answered, and the others say what is the matter
    assert result.faults == []
    assert [fallen.fault for fallen in result.fallen] == [*FAULTS]
    assert f"| {FAULTS[0]} | {FAULTS[1]} |" in describe(result)
