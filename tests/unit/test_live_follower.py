"""Given a deliverer that loses, repeats and rewinds, the follower takes each event in once."""

from __future__ import annotations

import random

from projectors.live.follower import REREADS_MAX, Follower
from tests.read_side import CODEC, COUNTERS, Added, record
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import EventReader, Partition

AT = Partition("counters", 0)
EVENTS = 60


def follower(begin: Progress | None = None) -> Follower:
    return Follower(EventReader([COUNTERS], CODEC), {AT: begin or Progress()})


def event(sequence: int, offset: int | None = None) -> StoredRecord:
    """The partition's event number `sequence`; every offset but the odd ones is a marker."""
    return record(
        Added(counter_id="a", by=sequence),
        offset=2 * sequence if offset is None else offset,
        sequence=sequence,
        version=sequence,
    )


def foreign(offset: int) -> StoredRecord:
    return StoredRecord(offset, b"a", b"not ours", [])


def taken(reader: Follower, *records: StoredRecord) -> list[int]:
    """The sequences of the events that were taken in."""
    facts = [reader.take(AT, each) for each in records]
    return [fact.sequence for fact in facts if fact is not None]


def test_an_event_that_comes_again_is_taken_in_once() -> None:
    reader = follower()

    assert taken(reader, event(1), event(2), event(1), event(2), event(3)) == [1, 2, 3]
    assert reader.counts["redelivered"] == 2


def test_a_hole_is_read_again_from_behind_the_last_event() -> None:
    reader = follower()

    assert taken(reader, event(1), event(3)) == [1]
    assert reader.hole(AT)
    assert reader.reread(AT) == event(1).offset + 1
    assert taken(reader, event(4), event(5)) == []  # under way before the rewind
    assert not reader.hole(AT)
    assert taken(reader, event(2), event(3), event(4)) == [2, 3, 4]
    assert reader.problems() == []


def test_a_hole_that_stays_is_read_again_a_few_times_and_then_shown() -> None:
    reader = follower()
    taken(reader, event(1))

    for _ in range(REREADS_MAX):
        assert taken(reader, event(3)) == []
        assert reader.hole(AT)
        reader.reread(AT)
    assert taken(reader, event(3)) == []

    assert not reader.hole(AT)
    assert reader.problems()
    assert reader.begin_again(AT) == event(1).offset + 1
    assert taken(reader, event(2), event(3)) == [2, 3]
    assert reader.problems() == []


def test_a_record_that_is_not_ours_is_passed_over_and_counted_once() -> None:
    reader = follower()

    assert taken(reader, event(1), foreign(3), event(2)) == [1, 2]
    assert taken(reader, event(4), foreign(3)) == []
    assert reader.counts["foreign"] == 1


def test_a_sequence_that_an_earlier_event_had_is_a_fork_and_is_not_counted() -> None:
    reader = follower()

    assert taken(reader, event(1), event(2), event(1, offset=7), event(3, offset=8)) == [1, 2, 3]
    assert reader.counts["forks"] == 1


def test_it_begins_behind_the_event_that_it_is_given() -> None:
    reader = follower(Progress(7, event(7).offset))

    assert reader.next_offset(AT) == event(7).offset + 1
    assert taken(reader, event(7), event(8)) == [8]


def test_whatever_the_deliverer_does_every_event_is_taken_in_once_and_in_order() -> None:
    for seed in range(300):
        chosen, reader, found = random.Random(seed), follower(), list[int]()
        position, under_way = 1, list[StoredRecord]()
        for _ in range(10_000):
            if len(found) == EVENTS:
                break
            if position <= EVENTS:
                if chosen.random() > 0.2:
                    under_way.append(event(position))
                if chosen.random() < 0.1:
                    under_way.append(event(position))
                position += 1
            if under_way and (chosen.random() < 0.5 or position > EVENTS):
                found += taken(reader, under_way.pop(0))
                if reader.hole(AT):
                    position = reader.reread(AT) // 2 + 1
            if position > EVENTS and not under_way:  # it stands still: the watch finds it
                position = reader.begin_again(AT) // 2 + 1
        assert found == [*range(1, EVENTS + 1)], f"seed {seed}"
