"""Given a log with trouble in it, when it is projected, then this and no more stops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.read_side import CODEC, COUNTERS, Added, Counter, record
from tidelog import Projection
from tidelog.engine.folding import Partition, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projecting import (
    FOLD_ATTEMPTS_MAX,
    Applied,
    ProjectionLoop,
    ProjectionStore,
    Report,
    Step,
    TopicInfo,
)
from tidelog.errors import CodecError, LogHole, Unavailable
from tidelog.memory.projection_store import MemoryProjectionStore, MemoryTables

LEFT, RIGHT = Partition("counters", 0), Partition("counters", 1)
TOPICS = {"counters": TopicInfo("topic", 2)}


def evolve(row: Counter | None, event: Added) -> Counter:
    if event.by < 0:
        raise ValueError("a bug")
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


counter = Projection(
    name="counter", version=1, contexts=[COUNTERS], row=Counter, key="counter_id", evolve=evolve
)


class ListReader:
    """A log in lists; it delivers from where it was told to."""

    def __init__(self, logs: dict[Partition, list[StoredRecord]]) -> None:
        self.logs = logs
        self.offsets = dict.fromkeys(logs, 0)
        self.paused: set[Partition] = set()

    def seek(self, partition: Partition, offset: int) -> None:
        """Deliver from this offset on."""
        self.offsets[partition] = offset

    def pause(self, partition: Partition) -> None:
        """Deliver nothing more."""
        self.paused.add(partition)

    def poll(self) -> dict[Partition, list[StoredRecord]]:
        """All that is there."""
        batch = {}
        for at in self.logs.keys() - self.paused:
            found = [each for each in self.logs[at] if each.offset >= self.offsets[at]]
            if found:
                batch[at] = found
                self.offsets[at] = found[-1].offset + 1
        return batch


class PickyStore(MemoryProjectionStore):
    """Refuses a total of 13, as PostgreSQL refuses what does not fit a column."""

    def apply(self, step: Step) -> Applied:
        """As in memory, but for 13."""
        refused: list[int] = []

        def fold(rows: dict[str, StoredRow]) -> object:
            changes = step.fold(rows)
            refused.extend(r.row.total for r in changes.upserts.values() if r.row.total == 13)
            if refused:
                raise CodecError("13 does not fit")
            return changes

        return super().apply(step._replace(fold=fold))  # type: ignore[arg-type]


class Given:
    """A projection over a log; `run` polls until nothing more comes."""

    def __init__(self, *logs: Sequence[StoredRecord], store: ProjectionStore | None = None) -> None:
        self.tables = MemoryTables()
        self.store = store or MemoryProjectionStore(counter, self.tables)
        self.store.open(TOPICS)
        self.reader = ListReader(dict(zip((LEFT, RIGHT), map(list, logs), strict=False)))
        self.loop = ProjectionLoop(counter, CODEC, self.store, self.reader)
        self.loop.assigned(self.reader.logs)

    def run(self) -> list[Report]:
        reports: list[Report] = []
        while batch := self.reader.poll():
            assert len(reports) < 100, "the loop never comes to rest"
            reports.append(self.loop.step(batch))
        return reports

    def totals(self) -> dict[str, int]:
        return {key: row.row.total for key, row in self.store.rows().items()}


def added(key: str, *amounts: int, start: int = 1) -> list[StoredRecord]:
    return [
        record(Added(counter_id=key, by=by), offset=n, sequence=n, version=n)
        for n, by in enumerate(amounts, start)
    ]


def test_two_partitions_are_written_in_one_transaction() -> None:
    given = Given(added("a", 1, 2), added("b", 3))

    (report,) = given.run()

    assert (report.events, report.transactions) == (3, 1)
    assert given.totals() == {"a": 3, "b": 3}
    assert given.loop.progress == {LEFT: Progress(2, 2), RIGHT: Progress(1, 1)}


def test_a_hole_is_read_again_once_and_heals_if_the_events_are_there() -> None:
    whole = added("a", 1, 2, 3)
    given = Given([whole[0], whole[2]])
    first = given.loop.step(given.reader.poll())
    given.reader.logs[LEFT] = whole

    given.run()

    assert len(first.holes) == 1
    assert given.loop.stopped == {}
    assert given.totals() == {"a": 6}


def test_the_same_hole_again_stops_its_partition_before_the_gap_and_no_other() -> None:
    whole = added("a", 1, 2, 3)
    given = Given([whole[0], whole[2]], added("b", 5))

    given.run()

    assert isinstance(given.loop.stopped[LEFT], LogHole)
    assert given.reader.paused == {LEFT}
    assert given.totals() == {"a": 1, "b": 5}
    assert given.store.progress()[LEFT] == Progress(1, 1)


def test_a_failing_fold_is_tried_again_and_then_stops_its_partition_right_before_it() -> None:
    given = Given(added("a", 1, 2, -1, 4), added("b", 5))

    reports = given.run()

    assert sum(LEFT in report.failures for report in reports) == FOLD_ATTEMPTS_MAX
    assert isinstance(given.loop.stopped[LEFT], CodecError)
    assert given.totals() == {"a": 3, "b": 5}
    assert given.store.progress()[LEFT] == Progress(2, 2)


def test_one_value_that_the_store_refuses_is_found_and_harms_only_its_partition() -> None:
    tables = MemoryTables()
    given = Given(
        [*added("a", 1, 2), *added("c", 13, start=3), *added("a", 1, start=4)],
        added("b", *range(1, 9)),
        store=PickyStore(counter, tables),
    )

    given.run()

    assert isinstance(given.loop.stopped[LEFT], CodecError)
    assert given.store.progress()[LEFT] == Progress(2, 2)
    assert given.totals() == {"a": 3, "b": 36}


def test_who_was_overtaken_goes_on_from_what_is_stored() -> None:
    given = Given(added("a", 1, 2, 3))
    other = ProjectionLoop(counter, CODEC, given.store, ListReader({LEFT: []}))
    other.assigned([LEFT])
    other.step({LEFT: added("a", 1, 2)})

    reports = given.run()

    assert [report.overtaken for report in reports] == [True, False]
    assert given.totals() == {"a": 6}


def test_after_an_uncertain_write_the_store_says_what_became_of_it() -> None:
    given = Given(added("a", 1, 2, 3))

    class LosesTheAnswer(MemoryProjectionStore):
        """Writes, and then the connection is gone."""

        def apply(self, step: Step) -> Applied:
            """As in memory, without an answer."""
            super().apply(step)
            raise Unavailable("the connection is gone")

    lossy = LosesTheAnswer(counter, given.tables)
    lossy.open(TOPICS)
    unsure = ProjectionLoop(counter, CODEC, lossy, given.reader)
    unsure.assigned([LEFT])
    with pytest.raises(Unavailable):
        unsure.step({LEFT: added("a", 1, 2)})

    unsure.resync()

    assert unsure.progress == {LEFT: Progress(2, 2)}
    assert given.reader.offsets[LEFT] == 3


def test_a_partition_that_was_released_is_not_folded_any_more() -> None:
    given = Given(added("a", 1), added("b", 5))
    batch = given.reader.poll()
    given.loop.released([LEFT])

    given.loop.step(batch)

    assert given.totals() == {"b": 5}


def test_a_fork_is_parked_and_leaves_the_partition_red() -> None:
    fork = record(Added(counter_id="z", by=1), offset=3, sequence=2, version=1)
    given = Given([*added("a", 1, 2), fork])

    (report,) = given.run()

    assert [parked.fork for parked in report.parked] == [True]
    assert LEFT in given.loop.forks
    assert given.totals() == {"a": 3}


def test_an_event_that_an_outdated_reader_cannot_decode_is_not_passed_over_for_good() -> None:
    records = added("a", 1, 2, 3)
    unreadable = records[1]._replace(value=b"from the future")
    given = Given([records[0], unreadable, records[2]])
    given.run()
    assert isinstance(given.loop.stopped[LEFT], LogHole)

    given.reader.logs[LEFT] = records
    given.reader.paused.clear()
    begin = given.loop.assigned([LEFT])
    given.reader.seek(LEFT, begin[LEFT])
    given.run()

    assert given.totals() == {"a": 6}
