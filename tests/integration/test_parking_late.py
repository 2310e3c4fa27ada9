"""Given a decision that comes after its event was folded, then the row is folded again.

A read model is the fold of the log and of the decisions, whichever of the two comes first. On a
real broker and a real database; nothing here depends on who is faster.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.integration.parking_process import PROJECTIONS, ledger, total
from tests.integration.parking_world import Process, World, world
from tests.log_writer import until
from tests.rebuild_projections import journal
from tidelog.lag_observer import LagObserver

__all__ = ["world"]


def is_the_fold(world: World) -> bool:
    """Whether every row is what the log and the decisions make, and nothing is parked."""
    return not world.parked() and all(
        world.rows(each) == world.folded(each) for each in PROJECTIONS
    )


def test_a_decision_that_comes_after_the_fold_reaches_back(world: World) -> None:
    with world.running():
        early = world.add("a", 2, 4, 6)[1]
        world.add("b", 8)
        world.until_caught_up()
        for each in PROJECTIONS:
            world.decide(each, early)
        until(lambda: is_the_fold(world), "the rows are folded again")
        assert world.rows(ledger)["a"].row.taken == (2, 6)
        world.add("a", 10)
        world.until_caught_up()
        assert world.rows(ledger)["a"].row.taken == (2, 6, 10), "nothing remembered the old row"
    assert is_the_fold(world)


def test_an_edit_reaches_the_rows_of_the_event_as_it_was_and_as_it_is_now(world: World) -> None:
    with world.running():
        odd = world.add("a", 1, 3, 2)[1]
        world.until_caught_up()
        world.decide(total, odd, '{"counter_id":"a","by":30}')
        until(lambda: is_the_fold(world), "both rows are folded again")
        assert {key: row.row.taken for key, row in world.rows(total).items()} == {
            "1": (1,),
            "0": (2, 30),
        }
        # Once more: what the first decision has put there goes.
        world.decide(total, odd, '{"counter_id":"a","by":5}')
        until(lambda: is_the_fold(world), "both rows are folded again")
        assert {key: row.row.taken for key, row in world.rows(total).items()} == {
            "1": (1, 5),
            "0": (2,),
        }


def test_a_decision_that_came_while_nobody_was_there_is_heeded_at_the_start(world: World) -> None:
    with world.running():
        first = world.add("a", 2, 4)[0]
        world.until_caught_up()
    for each in PROJECTIONS:
        world.decide(each, first, '{"counter_id":"a","by":20}')
    with world.running():
        until(lambda: is_the_fold(world), "the rows are folded again")
    assert world.rows(ledger)["a"].row.taken == (20, 4)


def test_a_row_that_is_parked_behind_a_late_decision_is_folded_again_up_to_there(
    world: World,
) -> None:
    world.break_on(13)
    with world.running():
        first = world.add("a", 2, 4, 13, 6)[0]
        until(lambda: len(world.parked()) == 2, "both rows are parked behind the poison")
        world.decide(ledger, first)
        until(lambda: world.rows(ledger)["a"].row.taken == (4,), "the row is folded again")
        assert ("ledger", "a") in world.parked(), "it still waits behind the poison"
        world.break_on()
        world.ask(ledger, "a")
        world.ask(total, "1")
        until(lambda: is_the_fold(world), "nothing is parked any more")
    assert world.rows(ledger)["a"].row.taken == (4, 13, 6)


def test_sql_of_its_own_cannot_take_an_event_back_and_is_said_to_need_a_rebuild(
    world: World,
) -> None:
    with world.running([*PROJECTIONS, journal]):
        first, second = world.add("a", 2, 4)
        world.until_caught_up([*PROJECTIONS, journal])
        assert len(world.query("SELECT 1 FROM {s}.journal")) == 2, "the journal has them, too"
        world.decide(journal, first)
        with closing(LagObserver([journal], world.settings, cache_s=0)) as observer:
            until(lambda: status(observer) == "needs-rebuild", "it is said on /projections")
            (found,) = [each for each in observer.look() if each.stored.projection == "journal"]
        reason = found.item()["needs_rebuild"]
        assert str(first) in reason and "tidelog projection rebuild journal" in reason
        assert found.problems() == [], "it is fed all the same"
        world.add("a", 6)
        until(
            lambda: len(world.query("SELECT 1 FROM {s}.journal")) == 3, "and it goes on meanwhile"
        )
    assert str(second) in {position for position, *_ in world.query("SELECT * FROM {s}.journal")}


def status(observer: LagObserver) -> str:
    """How the journal fares."""
    return next(each.status for each in observer.look() if each.stored.projection == "journal")


def test_a_kill_between_a_late_decision_and_the_refold_loses_neither(
    world: World, tmp_path: Path
) -> None:
    process = Process(world, tmp_path, 0)
    process.start()
    try:
        position = world.add("a", *range(2, 9))[3]
        world.until_caught_up()
        for number in range(4):
            for each in PROJECTIONS:
                world.decide(each, position, f'{{"counter_id":"a","by":{20 + number}}}')
            if number % 2:
                world.until_heeded()
            process.kill()
            process.start()
        until(lambda: is_the_fold(world), "the rows are folded again", 60)
    finally:
        process.kill()
    assert world.rows(ledger)["a"].row.taken == (2, 3, 4, 23, 6, 7, 8)
