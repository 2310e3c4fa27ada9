"""Given a log with trouble in it, when feeds fold it, then this and no more stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from tests.list_log import FAILING, LEFT, REFUSED, RIGHT, TOPICS, ListReader, counter, evolve
from tests.read_side import CODEC, COUNTERS, Added, Counter, record
from tidelog import Projection
from tidelog.engine.folding import Changes, Decision, Folder, StoredRow, revised
from tidelog.engine.judge import Progress
from tidelog.engine.log_stream import LogStream, Run
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.engine.projecting import Feed, Report
from tidelog.engine.projection_store import (
    Applied,
    ProjectionStore,
    Step,
    Written,
)
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.errors import CodecError, LogHole, ProjectionFault, Unavailable
from tidelog.memory import MemoryCodec
from tidelog.memory.projection_store import MemoryProjectionStore, MemoryTables
from tidelog.message import Message


def keys_that_fail(event: Added) -> Sequence[str]:
    if event.by == FAILING:
        raise ValueError("no key")
    return [event.counter_id]


keyless = Projection(
    name="keyless",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve,
    keys=keys_that_fail,
)


class PickyStore(MemoryProjectionStore):
    """Refuses a total of 13, as PostgreSQL refuses what does not fit a column."""

    def apply(self, step: Step) -> Applied:
        """As in memory, but for 13."""

        def fold(rows: Mapping[str, StoredRow], waiting: AbstractSet[str]) -> Changes:
            changes = step.fold(rows, waiting)
            if any(row.row.total == REFUSED for row in changes.upserts.values()):
                raise CodecError("13 does not fit")
            return changes

        return super().apply(step._replace(fold=fold))


class Given:
    """A feed over a log; `run` goes on until nothing more comes."""

    def __init__(
        self,
        *logs: Sequence[StoredRecord],
        store: ProjectionStore | None = None,
        projection: Projection[Any, Any] | None = counter,
        codec: MessageCodec = CODEC,
        **options: Any,
    ) -> None:
        self.tables = MemoryTables()
        self.store = store or MemoryProjectionStore(projection or counter, self.tables)
        self.store.open(TOPICS)
        self.reader = ListReader(dict(zip((LEFT, RIGHT), map(list, logs), strict=False)))
        self.stream = LogStream([COUNTERS], codec, self.reader)
        folder = Folder(projection) if projection else None
        self.feed = Feed("counter", folder, self.store, self.stream.want, **options)
        self.feed.assigned(self.reader.logs)
        self.feed.settle()

    def run(self) -> list[Report]:
        reports: list[Report] = []
        while batch := self.reader.poll():
            assert len(reports) < 100, "it never comes to rest"
            taken = self.stream.take(batch)
            reports.append(self.feed.step(taken.runs))
            if reports[-1].overtaken:
                self.feed.doubt()
                self.feed.settle()
        return reports

    def totals(self) -> dict[str, int]:
        assert isinstance(self.store, MemoryProjectionStore)
        return {key: row.row.total for key, row in self.store.rows().items()}


def added(key: str, *amounts: int, start: int = 1) -> list[StoredRecord]:
    return [
        record(Added(counter_id=key, by=by), offset=n, sequence=n, version=n)
        for n, by in enumerate(amounts, start)
    ]


def facts(records: Sequence[StoredRecord], behind: Progress) -> list[Fact]:
    return EventReader([COUNTERS], CODEC).read({LEFT: records}, {LEFT: behind}).facts


# --- the log ---------------------------------------------------------------------------------


def test_two_partitions_are_written_in_one_transaction() -> None:
    given = Given(added("a", 1, 2), added("b", 3))

    (report,) = given.run()

    assert (report.events, report.transactions) == (3, 1)
    assert given.totals() == {"a": 3, "b": 3}
    assert given.feed.progress == {LEFT: Progress(2, 2), RIGHT: Progress(1, 1)}


def test_a_hole_is_read_again_once_and_heals_if_the_events_are_there() -> None:
    whole = added("a", 1, 2, 3)
    given = Given([whole[0], whole[2]])
    first = given.stream.take(given.reader.poll())
    given.feed.step(first.runs)
    given.reader.logs[LEFT] = whole

    given.run()

    assert len(first.holes) == 1
    assert given.stream.stopped == {}
    assert given.totals() == {"a": 6}


def test_the_same_hole_again_stops_its_partition_before_the_gap_and_no_other() -> None:
    whole = added("a", 1, 2, 3)
    given = Given([whole[0], whole[2]], added("b", 5))

    given.run()

    assert isinstance(given.stream.stopped[LEFT], LogHole)
    assert LEFT not in given.reader.offsets
    assert given.totals() == {"a": 1, "b": 5}
    assert given.store.progress()[LEFT] == Progress(1, 1)


def test_a_feed_may_go_back_in_a_partition_that_stands() -> None:
    whole = added("a", 1, 2, 3, 4)
    given = Given([*whole[:2], whole[3]])
    given.run()

    given.stream.want(LEFT, Progress(1, 1))

    assert given.stream.stopped == {}
    assert [each.offset for each in given.reader.poll()[LEFT]] == [2, 4]


def test_a_fork_is_parked_and_leaves_the_partition_red() -> None:
    fork = record(Added(counter_id="z", by=1), offset=3, sequence=2, version=1)
    given = Given([*added("a", 1, 2), fork])

    (report,) = given.run()

    assert [parked.fork for parked in report.parked] == [True]
    assert LEFT in given.stream.forks
    assert given.totals() == {"a": 3}


def test_an_event_that_an_outdated_reader_cannot_decode_is_not_passed_over_for_good() -> None:
    records = added("a", 1, 2, 3)
    unreadable = records[1]._replace(value=b"from the future")
    given = Given([records[0], unreadable, records[2]])
    given.run()
    assert isinstance(given.stream.stopped[LEFT], LogHole)

    given.reader.logs[LEFT] = records
    given.stream.leave([LEFT])
    given.feed.resume()
    given.run()

    assert given.totals() == {"a": 6}


def test_the_stream_reads_from_the_least_place_that_anybody_asks_for() -> None:
    stream = LogStream([COUNTERS], CODEC, ListReader({LEFT: added("a", 1, 2, 3, 4)}))

    stream.want(LEFT, Progress(3, 3))
    stream.want(LEFT, Progress(1, 1))
    stream.want(LEFT, Progress(2, 2))

    assert stream.progress == {LEFT: Progress(1, 1)}


def test_what_cannot_be_decoded_now_is_read_again_with_all_that_came_along() -> None:
    class AwayOnce(MemoryCodec):
        """Its registry does not answer at first."""

        away = True

        def decode(self, value: bytes) -> Message:
            """Unavailable at one event, once."""
            event = super().decode(value)
            if self.away and event == Added(counter_id="b", by=5):
                self.away = False
                raise Unavailable("the registry does not answer")
            return event

    given = Given(added("a", 1, 2), added("b", 5), codec=AwayOnce([Added]))
    with pytest.raises(Unavailable):
        given.run()

    given.run()

    assert given.stream.stopped == {}
    assert given.totals() == {"a": 3, "b": 5}


# --- one feed --------------------------------------------------------------------------------


def test_a_failing_fold_parks_its_key_and_everything_else_goes_on() -> None:
    given = Given(
        [*added("a", 1, 2, FAILING, 4), *added("c", 7, start=5), *added("a", 1, start=6)],
        added("b", 5),
    )

    reports = given.run()

    assert [key.key for report in reports for key in report.parked_keys] == ["a"]
    assert given.feed.stopped == {}
    assert given.totals() == {"a": 3, "b": 5, "c": 7}
    assert given.store.progress()[LEFT] == Progress(6, 6)
    assert given.tables.parked_keys["a"].after == {LEFT: Progress(2, 2)}
    assert given.tables.waiting["a"] == 2


class NotedStore(MemoryProjectionStore):
    """Notes whether it is asked to look for anything."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.reads: list[bool] = []

    def apply(self, step: Step) -> Applied:
        """As in memory."""
        self.reads.append(step.reads)
        return super().apply(step)


def test_a_parked_key_is_looked_for_only_where_its_own_events_come() -> None:
    tables = MemoryTables()
    store = NotedStore(counter, tables)
    given = Given(added("a", 1, FAILING), added("b", 5), store=store)
    given.run()

    given.reader.logs[RIGHT] += added("b", 6, start=2)
    given.run()
    for_others = store.reads[-1]
    given.reader.logs[LEFT] += added("a", 7, start=3)
    given.run()

    assert (for_others, store.reads[-1]) == (False, True)
    assert tables.waiting["a"] == 1
    assert given.totals() == {"a": 1, "b": 11}


def test_one_value_that_the_store_refuses_is_found_and_harms_only_its_key() -> None:
    tables = MemoryTables()
    foreign = StoredRecord(5, None, None, [])
    given = Given(
        [*added("a", 1, 2), *added("c", REFUSED, start=3), *added("a", 1, start=4), foreign],
        added("b", *range(1, 9)),
        store=PickyStore(counter, tables),
    )

    given.run()

    assert given.feed.stopped == {}
    assert isinstance(tables.parked_keys["c"].error, CodecError)
    assert given.store.progress()[LEFT] == Progress(4, 4)
    assert given.totals() == {"a": 4, "b": 36}
    assert list(tables.parked) == [(LEFT, 5)]


def test_keys_that_fail_stop_their_partition_for_this_feed_until_it_is_tried_again() -> None:
    given = Given(added("a", 1, 2, FAILING, 4), added("b", 5), projection=keyless)

    given.run()

    assert isinstance(given.feed.stopped[LEFT], ProjectionFault)
    assert given.stream.stopped == {}
    assert given.totals() == {"a": 3, "b": 5}
    assert given.store.progress()[LEFT] == Progress(2, 2)
    given.reader.logs[LEFT] = added("a", 1, 2, 3, 4)
    given.feed.retry()
    given.run()
    assert given.totals() == {"a": 10, "b": 5}


def test_sql_of_a_projections_own_that_fails_stops_its_partition_right_before_the_event() -> None:
    store = SqlStore(counter)
    given = Given(added("a", 1, 2, FAILING, 4), added("b", 5), store=store, projection=None)

    given.run()

    assert store.written == {LEFT: [1, 2], RIGHT: [5]}
    assert given.store.progress()[LEFT] == Progress(2, 2)
    assert isinstance(given.feed.stopped[LEFT], ProjectionFault)


def test_a_decision_cures_the_event_at_which_sql_of_a_projections_own_fails() -> None:
    store, decisions = SqlStore(counter), {(LEFT, 3): Decision(None)}
    given = Given(
        added("a", 1, 2, FAILING, 4),
        store=store,
        projection=None,
        revise=lambda found: revised(found, decisions, [COUNTERS]),
    )

    given.run()

    assert store.written == {LEFT: [1, 2, 4]}
    assert given.store.progress()[LEFT] == Progress(4, 4)


class SqlStore(MemoryProjectionStore):
    """Takes down what it is given; SQL of its own fails at one event."""

    def __init__(self, projection: Projection[Any, Any]) -> None:
        super().__init__(projection)
        self.written: dict[Partition, list[int]] = {}

    def apply(self, step: Step) -> Applied:
        """Write all, or nothing."""
        events: list[Any] = [fact.event for fact in step.facts]
        if any(event.by == FAILING for event in events):
            raise KeyError("SQL of its own")
        applied = super().apply(step._replace(fold=lambda _rows, _waiting: NO_CHANGES))
        if isinstance(applied, Written):
            for fact, event in zip(step.facts, events, strict=True):
                self.written.setdefault(fact.partition, []).append(event.by)
        return applied


NO_CHANGES = Changes({}, [], [], {})


def test_who_was_overtaken_goes_on_from_what_is_stored() -> None:
    given = Given(added("a", 1, 2, 3))
    other = Feed("counter", Folder(counter), given.store, lambda _at, _progress: None)
    other.assigned([LEFT])
    other.settle()
    other.step([Run(LEFT, facts(added("a", 1, 2), Progress()))])

    reports = given.run()

    assert [report.overtaken for report in reports] == [True, False]
    assert given.totals() == {"a": 6}


def test_after_an_uncertain_write_the_store_says_what_became_of_it() -> None:
    class LosesTheAnswer(MemoryProjectionStore):
        """Writes, and then the connection is gone."""

        def apply(self, step: Step) -> Applied:
            """As in memory, without an answer."""
            super().apply(step)
            raise Unavailable("the connection is gone")

    given = Given(added("a", 1, 2, 3), store=LosesTheAnswer(counter))
    taken = given.stream.take(given.reader.poll(records_max=2))
    with pytest.raises(Unavailable):
        given.feed.step(taken.runs)

    given.feed.doubt()
    given.feed.settle()

    assert given.feed.progress == {LEFT: Progress(2, 2)}
    assert given.reader.offsets[LEFT] == 3


def test_a_partition_that_was_released_is_not_folded_any_more() -> None:
    given = Given(added("a", 1), added("b", 5))
    taken = given.stream.take(given.reader.poll())
    given.feed.released([LEFT])

    given.feed.step(taken.runs)

    assert given.totals() == {"b": 5}


def test_a_gap_in_what_is_handed_over_is_dropped_and_asked_for_once() -> None:
    asked: list[tuple[Partition, Progress]] = []
    given = Given([])
    feed = Feed("c", Folder(counter), given.store, lambda *wanted: asked.append(wanted))
    feed.assigned([LEFT])
    feed.settle()
    known, rest = added("a", 1, 2), added("a", 3, 4, 5, 6, start=3)
    behind = Progress(2, 2)

    feed.step([Run(LEFT, facts(known, Progress()))])
    feed.step([Run(LEFT, facts(rest, behind)[1:3]), Run(LEFT, facts(rest, behind)[3:])])
    feed.step([Run(LEFT, facts(rest, behind)[2:])])

    assert asked == [(LEFT, Progress()), (LEFT, behind)]
    feed.step([Run(LEFT, facts(rest, behind))])
    assert given.totals() == {"a": 21}
