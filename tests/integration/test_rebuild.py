"""Given a log and a read model, when it is rebuilt, then a proved table serves without a gap."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.log_writer import until
from tests.read_side import Added
from tests.rebuild_projections import TOO_LARGE
from tests.rebuild_world import BulkWorld, Notes, bulk, bulk_registry, bulk_workers
from tidelog.engine.retrying import Outcome
from tidelog.errors import LogHole, Unknown
from tidelog.postgres.rebuilds import Refused
from tidelog.rebuild.rebuild import Rebuild, cancel, session
from tidelog.rebuild.site import Quiet
from tidelog.rebuild.upkeep import adopt, drop_old, plan, rollback

__all__ = ["bulk", "bulk_registry", "bulk_workers"]


@pytest.mark.parametrize("name", ["counter", "grouped", "journal"])
def test_without_any_projector_a_rebuild_loads_proves_and_switches(
    bulk: BulkWorld, name: str
) -> None:
    bulk.append_some(3_000)

    done, _ = bulk.rebuild(name)

    assert done.switched
    assert done.events == 3_000
    assert done.proof is not None and done.proof.equal
    assert bulk.view(name) == f"{name}__v1_g1"
    proof = bulk.verify(name)
    assert proof.equal
    assert proof.rows > 5
    assert sum(proof.positions.values()) == 3_000


def test_while_events_flow_a_rebuild_ends_proved_and_no_read_fails(bulk: BulkWorld) -> None:
    bulk.append_some(2_000)
    with bulk.projectors():
        bulk.caught_up()
        before = drawn(bulk)
        with flowing(bulk), reading(bulk) as reads:
            done, _ = bulk.rebuild()
            again, _ = bulk.rebuild()
        bulk.caught_up()
        proof = bulk.verify()

    assert (done.switched, again.switched) == (True, True)
    assert bulk.view() == "counter__v1_g3"
    assert before < drawn(bulk)
    assert proof.equal, proof.first_difference
    assert not reads.failed
    assert len(reads.positions) > 10
    assert reads.positions == sorted(reads.positions), "what readers see never goes back"


def test_a_rebuild_into_a_new_version_changes_the_columns_of_the_view(bulk: BulkWorld) -> None:
    bulk.append_some(1_000)
    bulk.rebuild()

    done, _ = bulk.rebuild(projections="NOW")

    assert done.generation.table == bulk.view() == "counter__v2_g2"
    ((largest,),) = bulk.query("SELECT max(largest) FROM {s}.counter")
    assert largest == 99
    assert bulk.verify(projections="NOW").equal


@pytest.mark.parametrize("name", ["counter", "grouped"])
def test_failing_events_are_parked_by_a_rebuild_as_they_are_live(
    bulk: BulkWorld, name: str
) -> None:
    bulk.append_some(2_000, failing=0.01)

    done, _ = bulk.rebuild(name)

    proof = bulk.verify(name)
    assert done.switched and proof.equal, proof.first_difference
    parked = bulk.query(f"SELECT key, waiting FROM {{s}}.parked_keys WHERE projection = '{name}'")
    assert len(parked) == proof.parked > 0
    assert sum(waiting for _, waiting in parked) > 0
    with bulk.projectors():
        bulk.append_some(200)
        bulk.caught_up(name)
    assert bulk.verify(name).equal


@pytest.mark.parametrize("rows_max", [5, 1_000])
@pytest.mark.parametrize("name", ["counter", "grouped"])
def test_rows_that_the_database_refuses_are_parked_and_the_rebuild_goes_on(
    bulk: BulkWorld, name: str, rows_max: int
) -> None:
    bulk.append_some(300)
    # Nobody clears this one: a value that is gone again before it is written harms nobody.
    large = "large-1"
    _, at_fault, _ = bulk.log.append(*(Added(counter_id=large, by=by) for by in (5, TOO_LARGE, 6)))
    bulk.append_some(300)

    done, _ = bulk.rebuild(name, rows_max=rows_max)

    assert done.switched and bulk.verify(name).equal
    parked = bulk.query(f"SELECT key FROM {{s}}.parked_keys WHERE projection = '{name}'")
    keys = {key for (key,) in parked}
    assert keys == ({large} if name == "counter" else {"all", "group-1"})
    with bulk.projectors():
        bulk.append_some(100)
        bulk.caught_up(name)
    found = {bulk.retry(name, key) for key in keys}
    assert found == {(Outcome.FAILED, at_fault.sequence)}, "what lies before it is folded"
    assert bulk.verify(name).equal


@pytest.mark.parametrize("name", ["counter", "grouped"])
def test_memory_is_bounded_by_writing_what_is_there(bulk: BulkWorld, name: str) -> None:
    bulk.append_some(3_000, keys=300, failing=0.003)

    done, _ = bulk.rebuild(name, rows_max=5)

    assert done.switched
    assert bulk.verify(name).equal


def test_a_second_start_says_who_works_and_changes_nothing(bulk: BulkWorld) -> None:
    bulk.append_some(100)
    with (
        session(bulk.world(), "rebuild"),
        pytest.raises(Refused, match=r"rebuild counter by .*since"),
    ):
        bulk.rebuild()

    assert bulk.tables() == []


def test_a_cancelled_rebuild_leaves_nothing_behind(bulk: BulkWorld) -> None:
    bulk.append_some(500)
    bulk.rebuild()
    bulk.rebuild(switch_over=False)
    assert bulk.tables() == ["counter__v1_g1", "counter__v1_g2"]

    dropped = cancel(bulk.world())

    assert dropped.table == "counter__v1_g2"
    assert bulk.tables() == ["counter__v1_g1"]
    for table in ("projections", "projection_positions"):
        column = "name" if table == "projections" else "projection"
        found = bulk.query(
            f"SELECT DISTINCT generation FROM {{s}}.{table} WHERE {column} = 'counter'"
        )
        assert found == [(1,)]
    with pytest.raises(Refused, match="no rebuild of counter"):
        cancel(bulk.world())


def test_a_rebuild_that_was_left_unswitched_goes_on_from_there(bulk: BulkWorld) -> None:
    bulk.append_some(500)
    bulk.rebuild()
    bulk.rebuild(switch_over=False)

    done, notes = bulk.rebuild()

    assert (done.generation.generation, done.events, done.switched) == (2, 0, True)
    assert "load" not in notes.phases
    assert any("going on with counter__v1_g2" in note for note in notes.notes)


def test_missing_events_stop_a_rebuild_with_the_cure_and_the_old_one_serves(
    bulk: BulkWorld,
) -> None:
    bulk.append_some(300)
    bulk.rebuild()
    bulk.log.skip("c-1")
    bulk.log.append(Added(counter_id="c-1", by=1))

    with pytest.raises(LogHole, match="Restore the topic"):
        bulk.rebuild()

    assert bulk.view() == "counter__v1_g1"
    assert bulk.verify().equal


def test_a_long_query_delays_the_switch_and_stalls_no_other(bulk: BulkWorld) -> None:
    bulk.append_some(300)
    bulk.rebuild()
    notes = Notes()
    job = Rebuild(bulk.world(), workers=bulk.workers, watch=notes)
    with psycopg.connect(bulk.database.dsn) as long_query:
        long_query.execute(f"SELECT count(*) FROM {bulk.database.schema}.counter".encode())
        thread = threading.Thread(target=job.run)
        thread.start()
        until(lambda: any("queries hold the view" in n for n in notes.notes), "it waits", 60)

        assert bulk.query("SELECT count(*) FROM {s}.counter")[0][0] > 0
        assert bulk.view() == "counter__v1_g1"
        long_query.rollback()
        thread.join(60)

    assert bulk.view() == "counter__v1_g2"


def test_a_rollback_lets_the_generation_before_serve_at_once(bulk: BulkWorld) -> None:
    bulk.append_some(1_000)
    with bulk.projectors():
        bulk.caught_up()
        bulk.rebuild()
        bulk.append_some(1_000)

        before, now = rollback(bulk.world(), Quiet())

        assert (before.table, now.table) == ("counter__v1_g2", "counter__v1_g1")
        assert bulk.view() == "counter__v1_g1"
        bulk.caught_up()
    assert bulk.verify().equal


def test_a_rollback_to_one_that_nobody_feeds_is_refused_with_the_cure(
    bulk: BulkWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidelog.rebuild.upkeep.FED_WAIT_S", 0.5)
    bulk.append_some(500)
    bulk.rebuild()
    bulk.append_some(500)
    bulk.rebuild()

    with pytest.raises(Refused, match="500 events behind and nobody feeds it"):
        rollback(bulk.world(), Quiet())

    assert bulk.view() == "counter__v1_g2"


def test_drop_old_lets_go_of_all_that_does_not_serve(bulk: BulkWorld) -> None:
    bulk.append_some(500, failing=0.01)
    with bulk.projectors() as running:
        bulk.caught_up()
        bulk.rebuild()

        dropped = drop_old(bulk.world())

        assert [each.table for each in dropped] == ["counter__v1_g1"]
        bulk.append_some(500)
        bulk.caught_up()
        until(lambda: not running.problems("counter"), "the projectors are well")
    assert "counter__v1_g1" not in bulk.tables()
    assert (
        bulk.query("SELECT 1 FROM {s}.parked_keys WHERE projection = 'counter' AND generation = 1")
        == []
    )
    with pytest.raises(Refused, match="no generation that served before"):
        rollback(bulk.world(), Quiet())
    assert bulk.verify().equal


def test_a_mended_definition_is_adopted_where_the_rows_are_the_same(bulk: BulkWorld) -> None:
    bulk.append_some(500)
    bulk.rebuild()
    bulk.query("UPDATE {s}.projections SET definition = 'before it was mended'")

    adopted, proofs = adopt(bulk.world(), workers=bulk.workers, watch=Quiet())

    assert [each.table for each in adopted] == ["counter__v1_g1"]
    assert all(proof.equal for proof in proofs)
    assert adopt(bulk.world(), workers=bulk.workers, watch=Quiet()) == ([], [])
    with bulk.projectors():
        bulk.append_some(100)
        bulk.caught_up()


def test_a_definition_that_makes_other_rows_is_not_adopted(bulk: BulkWorld) -> None:
    bulk.append_some(500)
    bulk.rebuild()
    stored = bulk.query("SELECT definition FROM {s}.projections")

    adopted, (proof,) = adopt(
        bulk.world(projections="OTHERWISE"), workers=bulk.workers, watch=Quiet()
    )

    assert adopted == []
    assert not proof.equal and proof.first_difference is not None
    assert bulk.query("SELECT definition FROM {s}.projections") == stored


def test_a_plan_says_what_would_be_done_and_does_nothing(bulk: BulkWorld) -> None:
    bulk.append_some(300)
    bulk.rebuild()

    found = plan(bulk.world(projections="NOW"), workers=2)

    assert found["table"] == "counter__v2_g2"
    assert (found["events"], found["columns_added"], found["columns_removed"]) == (
        300,
        ["largest"],
        [],
    )
    assert found["definition_changed"]
    assert bulk.tables() == ["counter__v1_g1"]


def test_an_unknown_projection_is_refused_by_name(bulk: BulkWorld) -> None:
    with pytest.raises(Unknown, match="there is no projection nothing; there are counter"):
        bulk.rebuild("nothing")


# --- what happens meanwhile -----------------------------------------------------------------


class Reads:
    """What a reader of the view saw: failures, and the sum of the positions that served."""

    def __init__(self) -> None:
        self.failed: list[Exception] = []
        self.positions: list[int] = []


@contextmanager
def reading(bulk: BulkWorld) -> Iterator[Reads]:
    """A reader that asks all the time, on one connection, as the query service does."""
    reads, stopping = Reads(), threading.Event()
    statement = (
        "SELECT (SELECT count(*) FROM {s}.counter WHERE total > 5), sum(o.sequence)::bigint "
        "FROM {s}.projections AS p JOIN {s}.projection_positions AS o ON o.projection = p.name "
        "AND o.version = p.version AND o.generation = p.generation "
        "WHERE p.name = 'counter' AND p.serving"
    ).replace("{s}", bulk.database.schema)

    def read() -> None:
        with psycopg.connect(bulk.database.dsn, autocommit=True) as connection:
            while not stopping.wait(0.01):
                try:
                    row = connection.execute(statement.encode()).fetchone()
                except psycopg.Error as error:
                    reads.failed.append(error)
                    return
                assert row is not None
                reads.positions.append(row[1])

    with in_background(read, stopping):
        yield reads


@contextmanager
def flowing(bulk: BulkWorld) -> Iterator[None]:
    """Events that come all the time."""
    stopping = threading.Event()

    def flow() -> None:
        while not stopping.wait(0.02):
            bulk.append_some(20)

    with in_background(flow, stopping):
        yield


@contextmanager
def in_background(work: Any, stopping: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(30)


def drawn(bulk: BulkWorld) -> int:
    """How many events the log has."""
    return sum(bulk.log.positions().values())
