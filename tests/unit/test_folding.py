"""Given records of a log, when they are judged and folded, then these rows and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.read_side import (
    CODEC,
    COUNTERS,
    OTHERS,
    Added,
    Cleared,
    Counter,
    Noted,
    record,
)
from tidelog import Projection
from tidelog.engine.folding import Decision, Folder, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import EventReader, Partition, Reading
from tidelog.errors import CodecError

HOME = Partition("counters", 3)
NOTHING = Progress()
START = datetime(2026, 1, 1, tzinfo=UTC)


def evolve(row: Counter | None, event: Added | Cleared) -> Counter | None:
    if isinstance(event, Cleared):
        return None
    if event.by < 0:
        raise ValueError("a fold that fails")
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


counter = Projection(
    name="counter",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve,
)


def read(*records: StoredRecord, progress: Progress = NOTHING, at: Partition = HOME) -> Reading:
    return EventReader([COUNTERS], CODEC).read({at: records}, {at: progress})


def fold(
    reading: Reading,
    rows: dict[str, StoredRow] | None = None,
    projection: Projection[Counter, Added | Cleared] = counter,
) -> tuple[dict[str, StoredRow], Sequence[str], list[str]]:
    folder = Folder(projection)
    touches, _ = folder.touches(reading.facts)
    changes = folder.fold(touches, rows or {})
    return changes.upserts, changes.deletes, [each.key for each in changes.parked]


def stored(key: str, total: int, version: int, position: str) -> StoredRow:
    row = Counter(counter_id=key, total=total)
    return StoredRow(row, version, position, START, START)


def test_two_events_of_one_key_become_one_row_with_the_last_version_and_position() -> None:
    reading = read(
        record(Added(counter_id="a", by=2), offset=0, sequence=1, version=1),
        record(Added(counter_id="a", by=3), offset=1, sequence=2, version=2),
    )

    upserts, deletes, _ = fold(reading)

    assert list(upserts) == ["a"]
    row = upserts["a"]
    assert row.row == Counter(counter_id="a", total=5)
    assert (row.version, row.position) == (2, "counters:3:2")
    assert row.updated_at - row.created_at == timedelta(seconds=1)
    assert deletes == []
    assert reading.progress == {HOME: Progress(2, 1)}


def test_the_fold_goes_on_from_the_row_that_is_stored() -> None:
    reading = read(
        record(Added(counter_id="a", by=1), offset=9, sequence=5, version=8),
        progress=Progress(4, 7),
    )

    upserts, _, _ = fold(reading, {"a": stored("a", 10, 7, "counters:3:4")})

    assert upserts["a"].row == Counter(counter_id="a", total=11)
    assert upserts["a"].version == 8
    assert upserts["a"].created_at == START


def test_a_redelivered_record_changes_nothing() -> None:
    reading = read(
        record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1),
        record(Added(counter_id="a", by=1), offset=1, sequence=2, version=2),
        progress=Progress(2, 1),
    )

    assert (reading.facts, reading.progress, reading.redelivered) == ([], {}, 2)


def test_offsets_may_have_gaps_where_markers_and_aborted_records_lie() -> None:
    reading = read(
        record(Added(counter_id="a", by=1), offset=4, sequence=1, version=1),
        record(Added(counter_id="a", by=1), offset=90, sequence=2, version=2),
    )

    assert reading.progress == {HOME: Progress(2, 90)}
    assert reading.holes == []


def test_a_hole_ends_the_batch_before_it() -> None:
    reading = read(
        record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1),
        record(Added(counter_id="a", by=1), offset=5, sequence=3, version=3),
        record(Added(counter_id="a", by=1), offset=6, sequence=4, version=4),
    )

    assert [fact.sequence for fact in reading.facts] == [1]
    (hole,) = reading.holes
    assert (hole.partition, hole.progress, hole.found) == (HOME, Progress(1, 0), 3)
    assert reading.progress == {HOME: Progress(1, 0)}


def test_a_fork_is_parked_and_never_taken_for_a_duplicate() -> None:
    reading = read(
        record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1),
        record(Added(counter_id="b", by=1), offset=1, sequence=1, version=1),
        record(Added(counter_id="c", by=1), offset=2, sequence=2, version=1),
    )

    (parked,) = reading.parked
    assert (parked.fork, parked.record.offset, parked.after) == (True, 1, 1)
    assert [fact.sequence for fact in reading.facts] == [1, 2]


def test_a_foreign_record_is_parked_and_the_partition_goes_on() -> None:
    foreign = StoredRecord(1, b"a", b"not ours", [])
    reading = read(
        record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1),
        foreign,
        record(Added(counter_id="a", by=1), offset=2, sequence=2, version=2),
    )

    (parked,) = reading.parked
    assert (parked.record, parked.fork, parked.after) == (foreign, False, 1)
    assert reading.progress == {HOME: Progress(2, 2)}


def test_a_foreign_record_alone_moves_nothing_so_that_it_is_judged_again() -> None:
    reading = read(StoredRecord(7, None, None, []), progress=Progress(2, 6))

    assert len(reading.parked) == 1
    assert reading.progress == {}


def test_ours_is_only_what_agrees_with_itself() -> None:
    whole = record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1)
    headers = dict(whole.headers)
    odd = [
        whole._replace(key=None),
        whole._replace(key=b"b"),
        whole._replace(value=None),
        whole._replace(value=b""),
        whole._replace(value=b"{}"),
        whole._replace(key=b"b", headers=list({**headers, "ce_subject": b"b"}.items())),
        *(
            whole._replace(headers=list({**headers, name: value}.items()))
            for name, value in {
                "ce_subject": b"b",
                "ce_type": b"tidelog.counters.Cleared",
                "ce_sequence": b"1.0",
                "ce_aggregateversion": b"0",
                "ce_time": b"2026-99-99T00:00:00.000000Z",
                "ce_id": b"\xff",
            }.items()
        ),
    ]

    for each in odd:
        reading = read(each)
        assert (len(reading.parked), reading.facts) == (1, []), each


def test_an_event_of_another_context_is_not_ours() -> None:
    whole = record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1)
    reader = EventReader([COUNTERS, OTHERS], CODEC)
    elsewhere = Partition("others", 0)

    reading = reader.read({elsewhere: [whole]}, {elsewhere: Progress()})

    assert len(reading.parked) == 1


def test_the_order_of_a_partition_is_the_order_of_the_fold() -> None:
    reading = read(
        record(Added(counter_id="a", by=4), offset=0, sequence=1, version=1),
        record(Cleared(counter_id="a"), offset=1, sequence=2, version=2),
        record(Added(counter_id="a", by=1), offset=2, sequence=3, version=3),
    )

    upserts, deletes, _ = fold(reading)

    assert upserts["a"].row == Counter(counter_id="a", total=1)
    assert deletes == []
    # It was deleted and came back: it is a new row.
    assert upserts["a"].created_at == upserts["a"].updated_at


def test_none_deletes_the_row_that_is_stored() -> None:
    reading = read(record(Cleared(counter_id="a"), offset=0, sequence=1, version=4))

    upserts, deletes, _ = fold(reading, {"a": stored("a", 10, 3, "counters:3:0")})

    assert (upserts, deletes) == ({}, ["a"])


def test_a_row_that_came_and_went_within_a_batch_leaves_nothing() -> None:
    reading = read(
        record(Added(counter_id="a", by=4), offset=0, sequence=1, version=1),
        record(Cleared(counter_id="a"), offset=1, sequence=2, version=2),
    )

    assert fold(reading) == ({}, [], [])


def test_an_event_that_is_not_folded_still_moves_the_version_of_its_aggregate() -> None:
    reading = read(
        record(Added(counter_id="a", by=4), offset=0, sequence=1, version=1),
        record(Noted(counter_id="a"), offset=1, sequence=2, version=2),
        record(Noted(counter_id="b"), offset=2, sequence=3, version=1),
    )

    upserts, _, _ = fold(reading)

    assert list(upserts) == ["a"]
    assert upserts["a"].row == Counter(counter_id="a", total=4)
    assert (upserts["a"].version, upserts["a"].position) == (2, "counters:3:2")


def failing() -> Reading:
    return read(
        record(Added(counter_id="a", by=4), offset=0, sequence=1, version=1),
        record(Added(counter_id="a", by=-1), offset=1, sequence=2, version=2),
        record(Added(counter_id="b", by=1), offset=2, sequence=3, version=1),
        record(Added(counter_id="a", by=1), offset=3, sequence=4, version=3),
    )


def test_a_failing_fold_parks_its_own_key_as_it_was_and_its_later_events_wait() -> None:
    folder = Folder(counter)
    touches, _ = folder.touches(failing().facts)

    changes = folder.fold(touches, {})

    assert {key: row.row.total for key, row in changes.upserts.items()} == {"a": 4, "b": 1}
    assert changes.upserts["a"].version == 1
    (parked,) = changes.parked
    assert (parked.key, parked.fact.sequence, str(parked.error)) == ("a", 2, "a fold that fails")
    assert parked.after == {HOME: Progress(1, 0)}
    assert changes.passed == {"a": 1}


def test_events_of_a_parked_key_are_passed_over_and_counted() -> None:
    folder = Folder(counter)
    touches, _ = folder.touches(failing().facts)

    changes = folder.fold(touches, {}, waiting={"a"})

    assert (list(changes.upserts), changes.parked) == (["b"], [])
    assert changes.passed == {"a": 3}


def test_an_event_that_the_store_refuses_fails_with_its_reason() -> None:
    folder, reason = Folder(counter), CodecError("too large")
    touches, _ = folder.touches(failing().facts)

    changes = folder.fold(touches, {}, refused={(HOME, 3): reason})

    assert [(each.key, each.error) for each in changes.parked][1:] == [("b", reason)]


def test_a_decision_takes_the_place_of_an_event_or_discards_it() -> None:
    edited = Added(counter_id="a", by=10)
    for event, total in ((None, 5), (edited, 15)):
        folder = Folder(counter, {(HOME, 2): Decision(event)})
        touches, _ = folder.touches(failing().facts)

        changes = folder.fold(touches, {})

        assert changes.parked == []
        assert changes.upserts["a"].row.total == total
        assert changes.upserts["a"].version == 3


def test_keys_that_fail_end_the_touches_before_their_event() -> None:
    broken = replace(counter, keys=keys_that_fail)
    touches, failure = Folder(broken).touches(failing().facts)

    assert [touch.fact.sequence for touch in touches] == [1]
    assert failure is not None
    assert (failure.fact.sequence, str(failure.error)) == (2, "no key")


def keys_that_fail(event: Added | Cleared) -> Sequence[str]:
    if isinstance(event, Added) and event.by < 0:
        raise ValueError("no key")
    return [event.counter_id]


def test_a_row_that_several_aggregates_feed_comes_out_the_same_in_any_order() -> None:
    shared = Projection(
        name="shared",
        version=1,
        contexts=[COUNTERS],
        row=Counter,
        key="counter_id",
        evolve=total_of_all,
        keys=lambda _: ["all"],
    )
    one = read(record(Added(counter_id="a", by=4), offset=0, sequence=1, version=1))
    two = read(
        record(Added(counter_id="b", by=5), offset=0, sequence=9, version=7),
        progress=Progress(8, -1),
        at=Partition("counters", 1),
    )

    first, _, _ = fold(two, fold(one, projection=shared)[0], projection=shared)
    second, _, _ = fold(one, fold(two, projection=shared)[0], projection=shared)

    assert first == second
    assert (first["all"].row.total, first["all"].version) == (9, 2)


def total_of_all(row: Counter | None, event: Added | Cleared) -> Counter | None:
    by = event.by if isinstance(event, Added) else 0
    return Counter(counter_id="all", total=(row.total if row else 0) + by)
