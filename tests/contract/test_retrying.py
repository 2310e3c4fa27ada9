"""Whatever fails, is retried and goes on meanwhile: the order per key holds, and nothing is lost.

Live traffic, failures that come and go, retries that are cut short and decisions are mixed at
random, in memory and on PostgreSQL; in the end the rows are the pure fold of log and decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.read_side import Added, record
from tests.retrying_systems import systems_of
from tests.retrying_world import BROKEN, LEFT, RIGHT, History, System, history, sums
from tidelog import Projection
from tidelog.engine import retrying
from tidelog.engine.folding import Decision, Folder
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import Fact, Partition
from tidelog.engine.retrying import (
    Outcome,
    Retrier,
)


@pytest.fixture(params=["memory", "postgres"])
def system_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., System]]:
    """Makes systems; each begins with nothing."""
    with systems_of(request) as make:
        yield make


# --- One by one -----------------------------------------------------------------------------------


def test_a_retry_after_the_cure_folds_what_waited_in_order(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(2)
    for by in (1, 2, 3, 4):
        system.append("a", by)
        system.append("b", by + 10)
    system.live()
    assert system.parked_keys() == {"a": 2}

    BROKEN.clear()
    assert system.retry("a") is Outcome.DRAINED

    assert system.parked_keys() == {}
    assert system.store.rows()["a"].row == History(counter_id="a", taken=(1, 2, 3, 4))
    assert system.store.rows() == system.folded()


def test_a_retry_that_fails_again_changes_nothing_but_the_count_of_attempts(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(2)
    for by in (1, 2, 3):
        system.append("a", by)
    system.live()
    rows = system.store.rows()

    assert system.retry("a") is Outcome.FAILED
    assert system.retry("a") is Outcome.FAILED

    loaded = system.parked.load("a")
    assert loaded is not None and loaded.parked.attempts == 3
    assert (loaded.parked.sequence, loaded.parked.waiting) == (2, 1)
    assert system.store.rows() == rows


def test_a_retry_that_meets_another_failure_stands_before_that_one(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.update({2, 4})
    for by in (1, 2, 3, 4, 5, 6):
        system.append("a", by)
    system.live()
    BROKEN.discard(2)

    assert system.retry("a") is Outcome.FAILED

    loaded = system.parked.load("a")
    assert loaded is not None
    assert (loaded.parked.sequence, loaded.parked.attempts, loaded.parked.waiting) == (4, 1, 2)
    assert system.store.rows()["a"].row == History(counter_id="a", taken=(1, 2, 3))


def test_events_that_come_while_the_retry_reads_are_folded_once(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(1)
    system.append("a", 1)
    system.live()
    BROKEN.clear()

    def more() -> None:
        system.append("a", 2)
        system.append("b", 3)
        system.live()

    system.between.then = more
    assert system.retry("a") is Outcome.DRAINED
    system.append("a", 4)
    system.live()
    assert system.store.rows() == system.folded()


def test_a_discarded_event_is_left_out_for_good_and_the_next_ones_count(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(2)
    place = [system.append("a", by) for by in (1, 2, 3)][1]
    system.live()

    system.decisions[place] = Decision(None)
    assert system.retry("a") is Outcome.DRAINED

    row = system.store.rows()["a"]
    assert (row.row, row.version) == (History(counter_id="a", taken=(1, 3)), 3)
    assert system.store.rows() == system.folded()


def test_an_edited_event_counts_as_the_person_has_it(system_of: Callable[..., System]) -> None:
    system = system_of(history)
    BROKEN.add(2)
    place = [system.append("a", by) for by in (1, 2, 3)][1]
    system.live()

    system.decisions[place] = Decision(Added(counter_id="a", by=20))
    assert system.retry("a") is Outcome.DRAINED

    assert system.store.rows()["a"].row == History(counter_id="a", taken=(1, 20, 3))
    assert system.store.rows() == system.folded()


def test_a_replacement_of_another_aggregate_is_no_replacement(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(2)
    place = system.append("a", 2)
    system.live()
    system.decisions[place] = Decision(Added(counter_id="b", by=20))
    assert system.retry("a") is Outcome.FAILED


def test_a_row_of_several_partitions_is_folded_from_all_of_them(
    system_of: Callable[..., System],
) -> None:
    system = system_of(sums)
    BROKEN.add(3)
    for key, by in (("a", 1), ("c", 3), ("b", 5), ("d", 7), ("a", 2), ("c", 4)):
        system.append(key, by)
    system.live()
    assert set(system.parked_keys()) == {"1"}
    system.append("a", 9)
    system.live()

    BROKEN.clear()
    assert system.retry("1") is Outcome.DRAINED
    assert system.store.rows() == system.folded()


def test_a_retry_takes_a_bounded_number_of_events_and_then_goes_on(
    system_of: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "FOLDED_MAX", 3)
    system = system_of(history)
    BROKEN.add(1)
    for by in range(1, 9):
        system.append("a", by)
    system.live()
    BROKEN.clear()

    assert system.retry("a") is Outcome.MOVED
    assert system.store.rows()["a"].row == History(counter_id="a", taken=(1, 2, 3))
    assert system.parked_keys() == {"a": 4}
    assert system.retry("a") is Outcome.MOVED
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows() == system.folded()


def test_a_log_that_has_grown_much_is_not_read_while_the_positions_are_locked(
    system_of: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "LOCKED_EVENTS_MAX", 2)
    system = system_of(history)
    BROKEN.add(1)
    system.append("a", 1)
    system.live()
    BROKEN.clear()

    def more() -> None:
        for by in range(2, 12):
            system.append("a", by)
        system.live()

    system.between.then = more
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows() == system.folded()


def test_a_fork_is_not_folded_by_a_retry_either(system_of: Callable[..., System]) -> None:
    system = system_of(history)
    BROKEN.add(1)
    for by in (1, 2, 3):
        system.append("a", by)
    forged = record(Added(counter_id="a", by=99), offset=5, sequence=2, version=2)
    system.log[LEFT].insert(2, forged)
    system.live()
    BROKEN.clear()
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows()["a"].row == History(counter_id="a", taken=(1, 2, 3))


def test_of_two_retries_of_one_key_one_counts(system_of: Callable[..., System]) -> None:
    system = system_of(history)
    BROKEN.add(1)
    for by in (1, 2):
        system.append("a", by)
    system.live()
    BROKEN.clear()
    other = Retrier(history, system.parked, system, system.decisions)
    system.between.then = lambda: other.retry("a")

    assert system.retry("a") is Outcome.LOST
    assert system.store.rows() == system.folded()


# --- All at once ----------------------------------------------------------------------------------

Act = tuple[str, Any]
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.tuples(st.sampled_from("abcd"), st.integers(0, 6))),
        st.tuples(st.just("live"), st.none()),
        st.tuples(st.just("break"), st.integers(0, 6)),
        st.tuples(st.just("mend"), st.integers(0, 6)),
        st.tuples(st.just("retry"), st.sampled_from(["a", "b", "c", "d", "0", "1"])),
        st.tuples(st.just("busy retry"), st.sampled_from(["a", "b", "c", "d", "0", "1"])),
        st.tuples(st.just("decide"), st.integers(0, 30)),
        st.tuples(st.just("heed"), st.none()),
        st.tuples(st.just("learn"), st.none()),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=60,
)


def act(system: System, what: str, how: Any) -> None:
    match what:
        case "append":
            system.append(*how)
        case "live":
            system.live()
        case "break":
            BROKEN.add(how)
        case "mend":
            BROKEN.discard(how)
        case "retry":
            system.retry(how)
        case "busy retry":
            system.between.then = system.more
            system.retry(how)
            system.between.then = None
        case "decide":
            decide(system, how)
        case "heed":
            system.heed()
        case "learn":
            system.learn()
        case "restart":
            system.feed.released([LEFT, RIGHT])
            system.feed.assigned([LEFT, RIGHT])
            system.feed.settle()


def decide(system: System, which: int) -> None:
    """Decide on any event, wherever it is: by turns it is discarded, and edited to either row."""
    places = [
        (at, number + 1) for at, records in system.log.items() for number in range(len(records))
    ]
    if not places:
        return
    place = places[which % len(places)]
    fact = system.events.event(place[0], system.log[place[0]][place[1] - 1])
    assert isinstance(fact, Fact) and isinstance(fact.event, Added)
    other = fact.event
    system.decide(
        place, None if which % 3 == 0 else Added(counter_id=other.counter_id, by=100 + which)
    )


@pytest.mark.parametrize("projection", [history, sums], ids=["own rows", "shared rows"])
def test_whatever_happens_the_rows_end_as_the_fold_of_log_and_decisions(
    system_of: Callable[..., System],
    projection: Projection[Any, Any],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrying, "FOLDED_MAX", 4)
    monkeypatch.setattr(retrying, "LOCKED_EVENTS_MAX", 1)
    examples = 300 if "memory" in request.node.name else 25

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(acts=ACTS)
    def run(acts: list[Act]) -> None:
        system = system_of(projection)
        for what, how in acts:
            act(system, what, how)
            check_rows(system)
        BROKEN.clear()
        system.live()
        system.heed()
        for _ in range(200):
            parked = system.parked_keys()
            if not parked:
                break
            for key in parked:
                system.retry(key)
        assert system.parked_keys() == {}
        assert system.store.rows() == system.folded()

    run()


def check_rows(system: System) -> None:
    """At any moment: rows that are not parked are the fold up to the stored positions.

    What is known and not heeded yet may be in some rows and not in others.
    """
    if system.heeded < system.known:
        return
    # Not asked of the feed's own store: that one would take what is heeded for known to the feed.
    stand = system.heeding.stand().at
    log: dict[Partition, list[StoredRecord]] = {
        at: [r for r in records if r.offset <= stand[at].progress.offset]
        for at, records in system.log.items()
    }
    broken, parked = set(BROKEN), set(system.parked_keys())
    BROKEN.clear()
    try:
        reading = system.events.read(log, dict.fromkeys(log, Progress()))
        folder = Folder(system.projection, system.decisions)
        expected = folder.fold(folder.touches(reading.facts)[0], {}).upserts
    finally:
        BROKEN.update(broken)
    rows = system.store.rows()
    for key in (rows.keys() | expected.keys()) - parked:
        assert rows.get(key) == expected.get(key), key
