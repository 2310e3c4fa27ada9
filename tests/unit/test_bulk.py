"""Given a log, when it is folded in bulk, then it comes to what the live fold comes to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from tests.read_side import CODEC, COUNTERS, EPOCH, Added, Cleared, Counter, Noted, record
from tidelog import Event, Projection
from tidelog.engine.bulk import BulkFold, Segment, limits
from tidelog.engine.bulk_reading import Shard, shards_of
from tidelog.engine.folding import Decision, Decisions, Folder, KeyParked, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import EventReader, Partition
from tidelog.errors import CodecError, LogHole
from tidelog.wire import quick_headers, read_event_headers

HOME = Partition("counters", 0)
FAILING = -1
SEEDS = range(20)


def evolve(row: Counter | None, event: Added | Cleared) -> Counter | None:
    if isinstance(event, Cleared):
        return None
    if event.by == FAILING:
        raise ValueError("a fold that fails")
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


def evolve_shared(row: Counter | None, event: Added | Cleared) -> Counter | None:
    assert row is not None, "initial gives it"
    by = event.by if isinstance(event, Added) else 0
    if by == FAILING:
        raise ValueError("a fold that fails")
    return Counter(counter_id=row.counter_id, total=row.total + by)


def new_counter(key: str) -> Counter:
    return Counter(counter_id=key, total=0)


def groups(event: Added | Cleared) -> Sequence[str]:
    return ["all", f"group-{event.counter_id[-1]}"]


owned = Projection(
    name="owned", version=1, contexts=[COUNTERS], row=Counter, key="counter_id", evolve=evolve
)
shared = Projection(
    name="shared",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve_shared,
    keys=groups,
    initial=new_counter,
)
Logs = dict[Partition, list[StoredRecord]]


class Outcome(NamedTuple):
    """Rows, and for each parked key the failing sequence and how many events wait."""

    rows: dict[str, StoredRow]
    parked: dict[str, tuple[str, int]]
    waiting: dict[str, int]


def random_log(chosen: random.Random, failing: float = 0.02) -> Logs:
    """Three partitions; offsets with gaps; some events that nobody folds, and some that fail."""
    logs: Logs = {}
    for number in range(3):
        records: list[StoredRecord] = []
        offset, versions = 0, dict[str, int]()
        for sequence in range(1, chosen.randrange(0, 120)):
            key = f"k{number}-{chosen.randrange(8)}"
            versions[key] = versions.get(key, 0) + 1
            event = random_event(chosen, key, failing)
            records.append(record(event, offset=offset, sequence=sequence, version=versions[key]))
            offset += chosen.choice([1, 1, 1, 2, 7])
            if chosen.random() < 0.05:
                records.append(StoredRecord(offset, b"x", b"not ours", []))
                offset += 1
        logs[Partition("counters", number)] = records
    return logs


def random_event(chosen: random.Random, key: str, failing: float) -> Event:
    if chosen.random() < failing:
        return Added(counter_id=key, by=FAILING)
    if chosen.random() < 0.1:
        return Cleared(counter_id=key)
    if chosen.random() < 0.2:
        return Noted(counter_id=key)
    return Added(counter_id=key, by=chosen.randrange(100))


def folded_live(
    projection: Projection[Counter, Added | Cleared],
    logs: Logs,
    decisions: Decisions | None = None,
) -> Outcome:
    """What the engine of the live side makes of it, partition after partition."""
    folder, reader = Folder(projection, decisions), EventReader([COUNTERS], CODEC)
    outcome = Outcome({}, {}, {})
    for at, records in logs.items():
        reading = reader.read({at: records}, {at: Progress()})
        touches, _ = folder.touches(reading.facts)
        changes = folder.fold(touches, outcome.rows, set(outcome.parked))
        outcome.rows.update(changes.upserts)
        for key in changes.deletes:
            del outcome.rows[key]
        for parked in changes.parked:
            outcome.parked[parked.key] = where(parked)
        for key, count in changes.passed.items():
            outcome.waiting[key] = outcome.waiting.get(key, 0) + count
    return outcome


def where(parked: KeyParked) -> tuple[str, int]:
    return str(parked.fact.partition), parked.fact.sequence


def folded_in_bulk(
    projection: Projection[Counter, Added | Cleared],
    logs: Logs,
    chosen: random.Random,
    *,
    shards: int,
    drains: float,
    decisions: Decisions | None = None,
) -> Outcome:
    """What a rebuild makes of it: shard by shard, in batches, written and forgotten in between."""
    outcome = Outcome({}, {}, {})
    for shard in shards_of(projection, list(logs), shards):
        table: dict[str, StoredRow] = {}
        fold = BulkFold(
            projection,
            shard,
            CODEC,
            progress=dict.fromkeys(shard.partitions, Progress()),
            decisions=decisions,
        )
        for at in shard.partitions:
            fold_partition(fold, at, logs[at], chosen, table, outcome, drains)
        write(fold.drain(), table, outcome)
        assert not outcome.rows.keys() & table.keys(), "a row belongs to one shard"
        outcome.rows.update(table)
    return outcome


def fold_partition(
    fold: BulkFold,
    at: Partition,
    records: list[StoredRecord],
    chosen: random.Random,
    table: dict[str, StoredRow],
    outcome: Outcome,
    drains: float,
) -> None:
    start = 0
    while start < len(records):
        end = start + chosen.randrange(1, 30)
        fold.take(at, records[start:end], 10_000)
        start = end
        if chosen.random() < drains:
            write(fold.drain(), table, outcome)
            fold.load = lambda keys: {key: table[key] for key in keys if key in table}


def write(segment: Segment, table: dict[str, StoredRow], outcome: Outcome) -> None:
    added = {row.row.counter_id: row for row in segment.added}
    changed = {row.row.counter_id: row for row in segment.changed}
    assert not added.keys() & table.keys(), "what is added was not there"
    assert changed.keys() <= table.keys(), "what is changed was there"
    table.update({**added, **changed})
    for key in segment.deleted:
        del table[key]
    for parked in segment.parked:
        outcome.parked[parked.key] = (str(parked.partition), parked.sequence)
    for key, count in segment.passed.items():
        outcome.waiting[key] = outcome.waiting.get(key, 0) + count


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("projection", [owned, shared], ids=["owned", "shared"])
@pytest.mark.parametrize("drains", [0.0, 0.5])
def test_the_bulk_fold_comes_to_what_the_live_fold_comes_to(
    projection: Projection[Counter, Added | Cleared], drains: float, seed: int
) -> None:
    chosen = random.Random(seed)
    logs = random_log(chosen)
    shards = chosen.choice([1, 2, 3, 5])

    outcome = folded_in_bulk(projection, logs, chosen, shards=shards, drains=drains)

    assert outcome == folded_live(projection, logs)


@pytest.mark.parametrize("seed", SEEDS)
def test_decisions_take_part_in_the_bulk_fold(seed: int) -> None:
    chosen = random.Random(seed)
    logs = random_log(chosen, failing=0.1)
    decisions = {
        (at, sequence): chosen.choice([Decision(None), Decision(Added(counter_id=key, by=1_000))])
        for key, (place, sequence) in folded_live(owned, logs).parked.items()
        for at in logs
        if str(at) == place
    }
    assert decisions or seed

    outcome = folded_in_bulk(owned, logs, chosen, shards=2, drains=0.3, decisions=decisions)

    assert outcome == folded_live(owned, logs, decisions)


def test_a_key_that_is_parked_is_folded_up_to_what_its_row_holds() -> None:
    logs = {
        HOME: [
            record(Added(counter_id="a", by=n), offset=n, sequence=n, version=n)
            for n in range(1, 6)
        ]
    }
    fold = BulkFold(
        owned,
        Shard(number=0, partitions=(HOME,)),
        CODEC,
        progress={HOME: Progress()},
        waiting=limits({"a": {HOME: Progress(2, 2)}}),
    )

    fold.take(HOME, logs[HOME], 5)

    assert fold.rows()["a"].row.total == 3
    assert fold.drain().passed == {"a": 3}


def test_the_fold_ends_at_the_target_and_goes_on_from_there() -> None:
    records = [
        record(Added(counter_id="a", by=1), offset=n, sequence=n, version=n) for n in range(1, 6)
    ]
    fold = one_shard()

    assert fold.take(HOME, records, 3) == 3
    assert fold.rows()["a"].row.total == 3
    assert fold.take(HOME, records, 5) == 2
    assert (fold.rows()["a"].row.total, fold.events) == (5, 5)


def test_a_hole_stops_the_fold_and_names_the_cure() -> None:
    records = [record(Added(counter_id="a", by=1), offset=0, sequence=2, version=1)]

    with pytest.raises(LogHole, match=r"sequence 1 is missing, the next one is 2\..*Restore"):
        one_shard().take(HOME, records, 9)


def test_an_event_that_cannot_be_read_shows_as_a_hole_that_says_so() -> None:
    broken = record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1)
    records = [
        broken._replace(value=b"broken"),
        record(Added(counter_id="a", by=1), offset=1, sequence=2, version=2),
    ]

    with pytest.raises(LogHole, match="none of ours"):
        one_shard().take(HOME, records, 9)


def test_forks_and_redeliveries_are_passed_over() -> None:
    first = record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1)
    fork = record(Added(counter_id="a", by=50), offset=1, sequence=1, version=1)
    next_one = record(Added(counter_id="a", by=1), offset=2, sequence=2, version=2)
    fold = one_shard()

    fold.take(HOME, [first, first, fork, next_one], 9)

    assert fold.rows()["a"].row.total == 2


def test_keys_that_fail_stop_the_fold_and_name_the_event() -> None:
    def no_keys(event: Added | Cleared) -> Sequence[str]:
        raise KeyError(event.counter_id)

    projection = Projection(
        name="shared",
        version=1,
        contexts=[COUNTERS],
        row=Counter,
        key="counter_id",
        evolve=evolve_shared,
        keys=no_keys,
    )
    (shard,) = shards_of(projection, [HOME], 1)
    fold = BulkFold(projection, shard, CODEC, progress={HOME: Progress()})

    with pytest.raises(CodecError, match="Added at counters:0:1"):
        fold.take(HOME, [record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1)], 9)


def one_shard() -> BulkFold:
    (shard,) = shards_of(owned, [HOME], 1)
    return BulkFold(owned, shard, CODEC, progress={HOME: Progress()})


@pytest.mark.parametrize("projection", [owned, shared], ids=["owned", "shared"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_row_belongs_to_exactly_one_shard(
    projection: Projection[Counter, Added | Cleared], count: int
) -> None:
    partitions = [Partition("counters", number) for number in range(3)]

    shards = shards_of(projection, partitions, count)

    assert len(shards) >= count
    for number in range(50):
        holding = [
            shard
            for shard in shards
            if partitions[0] in shard.partitions and shard.holds(f"k-{number}".encode())
        ]
        assert len(holding) == 1


def test_headers_as_we_write_them_are_read_as_the_reader_reads_them() -> None:
    whole = record(Added(counter_id="a", by=1), offset=0, sequence=7, version=3)

    found = quick_headers(whole.headers)

    metadata = read_event_headers(whole.headers)
    assert found is not None
    assert found[:4] == (metadata.type.encode(), b"a", b"7", b"3")
    assert found[4] > EPOCH


ODD: Mapping[str, Sequence[bytes | None]] = {
    "ce_specversion": [b"1.1", None, b""],
    "ce_id": [b"", None, b"\xff", b"x" * 2_000],
    "ce_type": [None],
    "ce_subject": [b"", None],
    "ce_time": [
        b"2026-W01-1T00:00:00.000000Z",
        b"2026-13-01T00:00:00.000000Z",
        b"2026-01-01T00:00:00,000000Z",
        b"2026-01-01 00:00:00.000000Z",
        b"2026-01-01T00:00:00.00000Z",
        None,
        b"",
    ],
    "ce_aggregateversion": [b"0", b"01", b"-1", b"1.0", b"", None, b"1" * 19],
    "ce_correlationid": [b"", None],
    "ce_causationid": [b"", None],
    "ce_commandhash": [b"", None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ODD.items() for value in values]
)
def test_odd_headers_are_left_to_the_reader_whose_word_is_final(
    name: str, value: bytes | None
) -> None:
    whole = record(Added(counter_id="a", by=1), offset=0, sequence=1, version=1)

    odd = list({**dict(whole.headers), name: value}.items())

    assert quick_headers(odd) is None
    assert quick_headers(whole.headers[:-1]) is None
    assert quick_headers([*whole.headers, ("more", b"1")]) is None
