"""Given a decision that comes while a read model is rebuilt, then the new one has it as well."""

from __future__ import annotations

from functools import partial

from tests.read_side import Added
from tests.rebuild_world import BulkWorld, bulk, bulk_registry, bulk_workers
from tidelog import Position
from tidelog.engine.folding import Decision
from tidelog.engine.heeding import Made
from tidelog.engine.reading import Partition
from tidelog.rebuild.rebuild import Rebuild, Rebuilt
from tidelog.rebuild.site import Quiet
from tidelog.rebuild.verify import serving_generation, verify
from tidelog.rebuild.workers import World

__all__ = ["bulk", "bulk_registry", "bulk_workers"]


class Deciding(Quiet):
    """Decides about an event once the bulk load has folded it."""

    def __init__(self, made: list[Made], decision: Made) -> None:
        self._made = made
        self._decision = decision

    def phase(self, name: str, events: int | None) -> None:
        """The indexes are made once everything is loaded."""
        if name == "indexes":
            self._made.append(self._decision)


def discard(position: Position, sequence: int = 1) -> Made:
    at = Partition(position.context, position.partition)
    return Made(at, position.sequence, Decision(None, 0, sequence))


def rebuild(bulk: BulkWorld, world: World, watch: Quiet) -> Rebuilt:
    return Rebuild(world, workers=bulk.workers, watch=watch).run()


def test_a_decision_that_comes_while_a_rebuild_loads_is_heeded_before_it_serves(
    bulk: BulkWorld,
) -> None:
    bulk.append_some(500)
    late, _ = bulk.log.append(*(Added(counter_id="late", by=by) for by in (5, 7)))
    made: list[Made] = []
    world = World(site=bulk.world().site, projection="counter", made=partial(list, made))

    done = rebuild(bulk, world, Deciding(made, discard(late)))

    assert done.proof is not None and done.proof.equal and done.switched
    found = bulk.query("SELECT key, stale, sequence FROM {s}.parked_keys")
    assert found == [("late", True, late.sequence)], "the projectors fold it again"
    again = verify(world.renewed(), serving_generation(world), workers=bulk.workers, watch=Quiet())
    assert (again.equal, again.parked) == (True, 1)


def test_a_rebuild_that_knows_a_decision_from_its_beginning_has_nothing_to_fold_again(
    bulk: BulkWorld,
) -> None:
    known, _ = bulk.log.append(*(Added(counter_id="c", by=by) for by in (5, 7)))
    made = [discard(known)]
    world = World(site=bulk.world().site, projection="counter", made=partial(list, made))

    done = rebuild(bulk, world.renewed(), Quiet())

    assert done.proof is not None and done.proof.equal and done.switched
    assert bulk.query("SELECT 1 FROM {s}.parked_keys") == []
    assert bulk.query("SELECT counter_id, total FROM {s}.counter") == [("c", 7)]
    assert bulk.query("SELECT DISTINCT heeded FROM {s}.projection_positions") == [("0:1",)]


def test_a_table_of_sql_of_its_own_is_written_and_proved_with_the_decisions(
    bulk: BulkWorld,
) -> None:
    position, other = bulk.log.append(*(Added(counter_id="c", by=by) for by in (5, 7)))
    made = [discard(position)]
    world = World(site=bulk.world().site, projection="journal", made=partial(list, made))

    done = rebuild(bulk, world.renewed(), Quiet())

    assert done.proof is not None and done.proof.equal
    assert bulk.query("SELECT position FROM {s}.journal") == [(str(other),)]
    made.append(discard(other, 2))
    late = verify(world.renewed(), serving_generation(world), workers=bulk.workers, watch=Quiet())
    assert not late.equal, "a decision that came late is named"
