"""Given an event that is folded, when a person decides about it, then its rows are folded again.

In memory and on PostgreSQL. What happens when all of it is mixed is in test_retrying.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.read_side import Added, record
from tests.retrying_systems import systems_of
from tests.retrying_world import BROKEN, LEFT, TOPICS, Between, System, history, sums
from tidelog.engine import retrying
from tidelog.engine.heeding import Heeding, HeedStore, Stand, Standing, find, heed
from tidelog.engine.reading import Partition
from tidelog.engine.retrying import Outcome, Retrier
from tidelog.errors import Unavailable


@pytest.fixture(params=["memory", "postgres"])
def system_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., System]]:
    """Makes systems; each begins with nothing."""
    with systems_of(request) as make:
        yield make


def test_a_decision_that_comes_after_the_fold_has_the_row_folded_again(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    place = [system.append("a", by) for by in (1, 2, 3)][1]
    system.append("b", 4)
    system.live()

    system.decide(place, None)
    assert system.heed() == ["a"]
    assert system.store.rows()["a"].row.taken == (1, 2, 3), "it is shown until it is folded again"
    system.append("a", 5)
    system.live()
    assert system.parked_keys() == {"a": 1}, "later events wait in order"

    assert system.retry("a") is Outcome.DRAINED
    system.append("a", 6)
    system.live()
    assert system.store.rows()["a"].row.taken == (1, 3, 5, 6)
    assert system.store.rows() == system.folded()


def test_a_decision_that_is_in_time_has_nothing_folded_again(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(2)
    place = [system.append("a", by) for by in (1, 2, 3)][1]
    system.live()
    loaded = system.parked.load("a")

    system.decide(place, None)
    assert system.heed() == []

    after = system.parked.load("a")
    assert loaded is not None and after is not None
    assert after.parked.after == loaded.parked.after and not after.parked.stale
    assert system.heed() == [], "what is heeded is heeded"
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows() == system.folded()


def test_an_edit_has_the_rows_before_and_after_it_folded_again(
    system_of: Callable[..., System],
) -> None:
    system = system_of(sums)
    place = [system.append(key, by) for key, by in (("a", 1), ("c", 3), ("b", 2))][1]
    system.live()
    for by, rows in ((4, {"0": (2, 4), "1": (1,)}), (5, {"0": (2,), "1": (1, 5)})):
        system.decide(place, Added(counter_id="c", by=by))
        assert system.heed() == ["0", "1"]
        for key in ("0", "1"):
            assert system.retry(key) is Outcome.DRAINED
        assert {key: each.row.taken for key, each in system.store.rows().items()} == rows
    assert system.store.rows() == system.folded()


def test_a_row_of_which_nothing_is_left_goes(system_of: Callable[..., System]) -> None:
    system = system_of(history)
    place = system.append("a", 1)
    system.live()
    system.decide(place, None)
    system.heed()
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows() == {}


def test_a_decision_that_comes_while_a_retry_reads_is_not_lost(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(3)
    place, *_ = [system.append("a", by) for by in (1, 2, 3)]
    system.live()
    BROKEN.clear()
    system.decide(place, None)
    system.between.then = system.heed
    while system.parked_keys():
        system.retry("a")
    assert system.store.rows()["a"].row.taken == (2, 3)


def test_a_long_row_is_folded_again_in_bounded_steps(
    system_of: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "FOLDED_MAX", 3)
    system = system_of(history)
    place = [system.append("a", by) for by in range(1, 9)][6]
    system.live()
    system.decide(place, None)
    system.heed()
    assert [system.retry("a") for _ in range(3)] == [
        Outcome.MOVED,
        Outcome.MOVED,
        Outcome.DRAINED,
    ]
    assert system.store.rows() == system.folded()


def test_the_event_is_found_however_far_back_it_lies(system_of: Callable[..., System]) -> None:
    system = system_of(history)
    for _ in range(150):
        system.append("a", 1)
        system.append("b", 1)
    forged = record(Added(counter_id="a", by=99), offset=401, sequence=77, version=39)
    system.log[LEFT].insert(200, forged)
    system.live()
    stand = system.heeding.stand()
    for sequence in range(1, 301):
        found = find(system, LEFT, sequence, stand)
        assert (found.sequence, found.offset) == (sequence, 2 * sequence)


def test_a_decision_about_what_the_projection_does_not_read_is_heeded_and_changes_nothing(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    system.append("a", 1)
    system.live()
    system.decide((Partition("elsewhere", 0), 1), None)
    assert system.heed() == []
    assert {each.heeded for each in system.heeding.stand().at.values()} == {"0:1"}


# --- Others who do not know yet -------------------------------------------------------------------


def test_who_does_not_know_what_was_heeded_folds_nothing(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    place = system.append("a", 1)
    system.live()
    system.decide(place, None)
    system.heed()
    store, parked = system.stranger
    with pytest.raises(Unavailable):
        store.open(TOPICS)
    with pytest.raises(Unavailable):
        parked.load("a")


def test_a_retry_that_began_before_a_decision_was_heeded_writes_nothing(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    BROKEN.add(1)
    place = system.append("a", 1)
    system.append("a", 2)
    system.live()
    BROKEN.clear()
    system.decide(place, None)
    between = Between(system.stranger[1])
    between.then = system.heed

    with pytest.raises(Unavailable):
        Retrier(history, between, system, {}).retry("a")
    assert system.store.rows() == {}
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows() == system.folded()


def test_an_event_that_is_folded_while_a_decision_is_heeded_is_folded_again(
    system_of: Callable[..., System],
) -> None:
    system = system_of(history)
    place = [system.append("a", by) for by in (1, 2)][1]
    system.decide(place, None)
    keys = heed(history, Meanwhile(system.heeding, system.live), system, system.made)
    assert keys == ["a"]
    system.learn()
    assert system.retry("a") is Outcome.DRAINED
    assert system.store.rows()["a"].row.taken == (1,)


class Meanwhile:
    """A store of what is heeded; once something happens after somebody has looked at it."""

    def __init__(self, store: HeedStore, then: Callable[[], object]) -> None:
        self._store = store
        self._then: Callable[[], object] | None = then

    def stand(self) -> Stand:
        """As the store has it; then something happens."""
        stand = self._store.stand()
        then, self._then = self._then, None
        if then is not None:
            then()
        return stand

    def heed(self, seen: Mapping[Partition, Standing], heeding: Heeding) -> list[str] | None:
        """As the store does."""
        return self._store.heed(seen, heeding)
