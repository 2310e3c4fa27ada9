"""What the run with an outage reads from the metrics, and what it calls a fault."""

from __future__ import annotations

from pathlib import Path

import httpx2 as httpx

from tests.torture.saga_outage import CLOSED, OPEN, Breaker, OutageRun, samples

PAGE = """\
# HELP tidelog_breaker_state 0 closed, 1 half-open, 2 open: calls are refused.
# TYPE tidelog_breaker_state gauge
tidelog_breaker_state{dependency="payment_provider"} 2.0
tidelog_breaker_state{dependency="north"} 0.0
tidelog_effect_work{effect="take-payment",status="waiting"} 7.0
"""


def judged(*states: tuple[float, float]) -> OutageRun:
    """A run that stopped the provider at 10 and let it go on at 20, and saw these states."""
    breaker = Breaker("", httpx.AsyncClient(), list(states))
    run = OutageRun(Path(), seed=1, rate=1, outage_s=10, bound_s=60)
    run.result.opened_after_s = breaker.first(OPEN, since=10)
    run.judge(breaker, back_at=20)
    return run


def test_a_page_of_metrics_is_read_by_name_and_labels() -> None:
    found = samples(PAGE)
    assert found['tidelog_breaker_state{dependency="payment_provider"}'] == OPEN
    assert found['tidelog_breaker_state{dependency="north"}'] == CLOSED
    assert len(found) == 3


def test_a_breaker_that_opens_and_closes_again_is_timed() -> None:
    result = judged((9, CLOSED), (14, OPEN), (20.5, OPEN), (23, CLOSED)).result
    assert (result.opened_after_s, result.closed_after_s) == (4, 3)
    assert result.faults == []


def test_a_breaker_that_never_opens_is_a_fault() -> None:
    assert "never opened" in judged((9, CLOSED), (23, CLOSED)).result.faults[0]


def test_a_breaker_that_stays_open_is_a_fault() -> None:
    assert "not closed in the end" in judged((9, CLOSED), (14, OPEN), (23, OPEN)).result.faults[0]
