"""What every projection store promises: memory and PostgreSQL pass the same suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.read_side import CODEC, COUNTERS, Added, Counter, record
from tidelog import Projection
from tidelog.engine.folding import Changes, KeyParked, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projection_store import Overtaken, RowStore, Step, TopicInfo, Written
from tidelog.engine.reading import EventReader, Fact, ParkedRecord, Partition
from tidelog.errors import DefinitionChanged, GenerationGone, TopicRecreated
from tidelog.memory.projection_store import MemoryProjectionStore, MemoryTables
from tidelog.postgres.generations import register
from tidelog.postgres.projection_store import PostgresProjectionStore
from tidelog.postgres.tables import Generation

ONE, TWO = Partition("counters", 0), Partition("counters", 1)
TOPICS = {"counters": TopicInfo("topic-a", 2)}
AT = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


def evolve(row: Counter | None, event: Added) -> Counter:
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


counter = Projection(
    name="counter",
    version=1,
    contexts=[COUNTERS],
    row=Counter,
    key="counter_id",
    evolve=evolve,
    indexes=[["total"]],
)


AfterOf = Mapping[str, Mapping[Partition, Progress]]


@dataclass
class Stores:
    """Makes stores over the same tables, as several processes have them."""

    make: Callable[[Projection[Any, Any]], RowStore]
    parked: Callable[[], list[tuple[str, int, int]]]
    parked_keys: Callable[[], AfterOf]
    waiting: Callable[[], Mapping[str, int]]
    drop: Callable[[], None]

    def opened(
        self,
        topics: Mapping[str, TopicInfo] = TOPICS,
        projection: Projection[Any, Any] = counter,
    ) -> RowStore:
        store = self.make(projection)
        store.open(topics)
        return store


@pytest.fixture(params=["memory", "postgres"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    if request.param == "memory":
        yield memory_stores(MemoryTables())
        return
    made: list[RowStore] = []
    yield postgres_stores(request.getfixturevalue("database"), made)
    for store in made:
        store.close()


def memory_stores(tables: MemoryTables) -> Stores:
    return Stores(
        make=lambda projection: MemoryProjectionStore(projection, tables),
        parked=lambda: [(*at, offset) for at, offset in sorted(tables.parked)],
        parked_keys=lambda: {key: each.after for key, each in tables.parked_keys.items()},
        waiting=lambda: {key: tables.waiting.get(key, 0) for key in tables.parked_keys},
        drop=tables.drop,
    )


def postgres_stores(database: Database, made: list[RowStore]) -> Stores:
    def make(projection: Projection[Any, Any]) -> RowStore:
        store = PostgresProjectionStore(projection, dsn=database.dsn, schema=database.schema)
        made.append(store)
        return store

    def query(statement: str) -> list[Any]:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            return connection.execute(statement.format(s=database.schema).encode()).fetchall()

    def parked_keys() -> AfterOf:
        found = query("SELECT key, after FROM {s}.parked_keys")
        return {
            key: {_partition(at): Progress(*to) for at, to in own.items()} for key, own in found
        }

    def drop() -> None:
        query("DELETE FROM {s}.projection_positions RETURNING 1")

    return Stores(
        make=make,
        parked=lambda: query(
            'SELECT context, partition, "offset" FROM {s}.parked_records ORDER BY 1, 2, 3'
        ),
        parked_keys=parked_keys,
        waiting=lambda: dict(query("SELECT key, waiting FROM {s}.parked_keys")),
        drop=drop,
    )


def _partition(text: str) -> Partition:
    context, number = text.split(":")
    return Partition(context, int(number))


def row(key: str, total: int, version: int = 1) -> StoredRow:
    return StoredRow(Counter(counter_id=key, total=total), version, "counters:0:1", AT, AT)


def step(
    before: Mapping[Partition, Progress],
    after: Mapping[Partition, Progress],
    *upserts: StoredRow,
    deletes: list[str] | None = None,
    parked: list[ParkedRecord] | None = None,
    shared: bool = False,
) -> Step:
    rows = {each.row.counter_id: each for each in upserts}
    keys = sorted([*rows, *(deletes or [])])
    return Step(
        before=before,
        after=after,
        parked=parked or [],
        facts=[],
        touched=keys,
        keys=keys,
        shared=shared,
        fold=lambda _rows, _waiting: Changes(rows, deletes or [], [], {}),
    )


def parking(empty: Step, key: KeyParked, passed: Mapping[str, int], *upserts: StoredRow) -> Step:
    """The step, but for what its fold gives: a parked key, and rows of others."""
    rows = {each.row.counter_id: each for each in upserts}
    changes = Changes(rows, [], [key], dict(passed))
    touched: Sequence[str] = sorted([*rows, key.key])
    return empty._replace(touched=touched, fold=lambda _rows, _waiting: changes)


def fact(sequence: int) -> Fact:
    stored = record(Added(counter_id="a", by=1), offset=sequence - 1, sequence=sequence, version=1)
    before = Progress(sequence - 1, sequence - 2)
    (found,) = EventReader([COUNTERS], CODEC).read({ONE: [stored]}, {ONE: before}).facts
    return found


def begun(*upserts: StoredRow) -> Step:
    return step({ONE: Progress()}, {ONE: Progress(1, 0)}, *upserts)


def test_a_new_store_has_read_nothing_of_every_partition(stores: Stores) -> None:
    store = stores.opened()

    assert store.progress() == {ONE: Progress(0, -1), TWO: Progress(0, -1)}
    assert store.rows() == {}


def test_opening_again_changes_nothing(stores: Stores) -> None:
    stores.opened().apply(begun(row("a", 5)))

    again = stores.opened()

    assert again.progress()[ONE] == Progress(1, 0)
    assert again.rows() == {"a": row("a", 5)}


def test_rows_and_progress_are_written_together(stores: Stores) -> None:
    store = stores.opened()

    applied = store.apply(begun(row("a", 5), row("b", 6)))

    assert applied == Written(2, 0)
    assert store.rows() == {"a": row("a", 5), "b": row("b", 6)}
    assert store.progress() == {ONE: Progress(1, 0), TWO: Progress()}


def test_a_row_is_replaced_by_its_key_and_a_deleted_one_is_gone(stores: Stores) -> None:
    store = stores.opened()
    store.apply(begun(row("a", 5), row("b", 6)))

    applied = store.apply(
        step({ONE: Progress(1, 0)}, {ONE: Progress(3, 2)}, row("a", 9, 2), deletes=["b"])
    )

    assert applied == Written(1, 1)
    assert store.rows() == {"a": row("a", 9, 2)}


def test_the_fold_is_given_the_stored_rows_of_its_keys_and_no_others(stores: Stores) -> None:
    store = stores.opened()
    store.apply(begun(row("a", 5), row("b", 6)))
    given: list[dict[str, StoredRow]] = []

    def fold(rows: Mapping[str, StoredRow], _waiting: AbstractSet[str]) -> Changes:
        given.append(dict(rows))
        return Changes({}, [], [], {})

    empty = step({ONE: Progress(1, 0)}, {ONE: Progress(2, 1)})
    store.apply(empty._replace(touched=["a", "b", "new"], keys=["a", "new"], fold=fold))

    assert given == [{"a": row("a", 5)}]


def test_whoever_begins_elsewhere_has_been_overtaken_and_writes_nothing(
    stores: Stores,
) -> None:
    mine, other = stores.opened(), stores.opened()
    other.apply(begun(row("a", 5)))

    applied = mine.apply(begun(row("a", 100), row("z", 1)))

    assert applied == Overtaken()
    assert mine.rows() == {"a": row("a", 5)}
    assert mine.progress()[ONE] == Progress(1, 0)


def test_one_partition_overtaken_means_that_none_advances(stores: Stores) -> None:
    mine, other = stores.opened(), stores.opened()
    other.apply(begun(row("a", 5)))

    applied = mine.apply(
        step(
            {ONE: Progress(), TWO: Progress()},
            {ONE: Progress(1, 0), TWO: Progress(1, 0)},
            row("z", 1),
        )
    )

    assert applied == Overtaken()
    assert mine.progress()[TWO] == Progress()
    assert "z" not in mine.rows()


def test_a_row_whose_fold_fails_is_parked_with_the_step_and_says_how_far_it_reaches(
    stores: Stores,
) -> None:
    store = stores.opened()
    key = KeyParked("a", fact(3), ValueError("a bug \0"), {ONE: Progress(2, 1)})

    applied = store.apply(
        parking(step({ONE: Progress()}, {ONE: Progress(4, 3)}), key, {"a": 1}, row("b", 1))
    )

    assert applied == Written(1, 0, (key,))
    assert store.progress()[ONE] == Progress(4, 3)
    assert set(store.rows()) == {"b"}
    assert stores.parked_keys() == {"a": {ONE: Progress(2, 1)}}
    assert stores.waiting() == {"a": 1}


def test_a_parked_row_that_several_partitions_feed_says_how_far_it_reaches_in_each(
    stores: Stores,
) -> None:
    store = stores.opened()
    store.apply(step({TWO: Progress()}, {TWO: Progress(7, 9)}))
    key = KeyParked("a", fact(3), ValueError("a bug"), {ONE: Progress(2, 1)})

    store.apply(parking(step({ONE: Progress()}, {ONE: Progress(4, 3)}, shared=True), key, {"a": 1}))

    assert stores.parked_keys() == {"a": {ONE: Progress(2, 1), TWO: Progress(7, 9)}}


def test_a_step_that_reads_nothing_writes_rows_and_progress_all_the_same(stores: Stores) -> None:
    store = stores.opened()
    both = step(
        {ONE: Progress(), TWO: Progress()},
        {ONE: Progress(1, 0), TWO: Progress(4, 9)},
        row("a", 5),
        row("b", 6),
    )

    assert store.apply(both._replace(reads=False)) == Written(2, 0)

    assert store.rows() == {"a": row("a", 5), "b": row("b", 6)}
    assert store.progress() == {ONE: Progress(1, 0), TWO: Progress(4, 9)}
    again = step({ONE: Progress(1, 0)}, {ONE: Progress(2, 1)}, row("a", 7, 2))
    assert store.apply(again._replace(reads=False)) == Written(1, 0)
    assert store.rows()["a"] == row("a", 7, 2)


def test_a_step_that_reads_nothing_and_is_overtaken_in_one_partition_does_nothing(
    stores: Stores,
) -> None:
    mine, other = stores.opened(), stores.opened()
    other.apply(begun(row("a", 5)))
    late = step(
        {ONE: Progress(), TWO: Progress()}, {ONE: Progress(1, 0), TWO: Progress(4, 9)}, row("a", 9)
    )

    assert mine.apply(late._replace(reads=False)) == Overtaken()

    assert mine.progress() == {ONE: Progress(1, 0), TWO: Progress()}
    assert mine.rows() == {"a": row("a", 5)}
    ahead = step({ONE: Progress(1, 0)}, {ONE: Progress(2, 1)}, row("a", 6, 2))
    assert mine.apply(ahead._replace(reads=False)) == Written(1, 0)


def test_a_step_that_reads_nothing_deletes_and_parks_as_any_other(stores: Stores) -> None:
    store = stores.opened()
    store.apply(begun(row("a", 5), row("b", 6)))
    key = KeyParked("b", fact(3), ValueError("a bug"), {ONE: Progress(2, 1)})

    gone = step({ONE: Progress(1, 0)}, {ONE: Progress(2, 1)}, deletes=["a"])
    assert store.apply(gone._replace(reads=False)) == Written(0, 1)
    empty = step({ONE: Progress(2, 1)}, {ONE: Progress(3, 2)})
    parked = store.apply(parking(empty, key, {})._replace(reads=False))

    assert parked == Written(0, 0, (key,))
    assert (set(store.rows()), set(stores.parked_keys())) == ({"b"}, {"b"})


def test_a_step_that_is_overtaken_parks_nothing(stores: Stores) -> None:
    mine, other = stores.opened(), stores.opened()
    other.apply(begun(row("a", 5)))
    key = KeyParked("a", fact(3), ValueError("a bug"), {ONE: Progress(2, 1)})

    applied = mine.apply(parking(begun(), key, {"a": 1}))

    assert (applied, stores.parked_keys()) == (Overtaken(), {})


def test_the_fold_is_told_which_of_its_rows_are_parked_and_what_waits_is_counted(
    stores: Stores,
) -> None:
    store = stores.opened()
    key = KeyParked("a", fact(1), ValueError("a bug"), {ONE: Progress()})
    store.apply(parking(begun(), key, {"a": 2}))
    told: list[AbstractSet[str]] = []

    def fold(_rows: Mapping[str, StoredRow], waiting: AbstractSet[str]) -> Changes:
        told.append(waiting)
        return Changes({}, [], [], dict.fromkeys(waiting, 3))

    empty = step({ONE: Progress(1, 0)}, {ONE: Progress(9, 8)})
    applied = store.apply(empty._replace(touched=["a", "b"], keys=["b"], fold=fold))

    assert (applied, told) == (Written(0, 0), [{"a"}])
    assert stores.waiting() == {"a": 5}


def test_another_definition_under_the_same_version_is_refused(stores: Stores) -> None:
    stores.opened().apply(begun(row("a", 5)))

    with pytest.raises(DefinitionChanged, match="adopt counter"):
        stores.opened(projection=replace(counter, indexes=[]))


def test_a_generation_that_was_dropped_is_told_from_one_that_is_behind(stores: Stores) -> None:
    store = stores.opened()
    stores.drop()

    with pytest.raises(GenerationGone, match="dropped"):
        store.progress()


def test_a_generation_that_is_not_registered_is_not_made_again(database: Database) -> None:
    first = PostgresProjectionStore(counter, dsn=database.dsn, schema=database.schema)
    first.open(TOPICS)
    dropped = PostgresProjectionStore(
        counter, dsn=database.dsn, schema=database.schema, generation=2
    )

    with pytest.raises(GenerationGone, match="not registered"):
        dropped.open(TOPICS)

    first.close()
    dropped.close()


def test_the_first_generation_makes_the_view_and_no_other_touches_it(database: Database) -> None:
    first = PostgresProjectionStore(counter, dsn=database.dsn, schema=database.schema)
    first.open(TOPICS)
    first.apply(begun(row("a", 5)))
    second = PostgresProjectionStore(
        counter, dsn=database.dsn, schema=database.schema, generation=2
    )
    with psycopg.connect(database.dsn) as connection:
        table = Generation("counter", 1, 2)
        register(connection, database.schema, table, serving=False, state="live", definition="")

    second.open(TOPICS)

    with psycopg.connect(database.dsn) as connection:
        shown = connection.execute(f"SELECT total FROM {database.schema}.counter".encode())
        assert shown.fetchall() == [(5,)]
    assert second.rows() == {}
    first.close()
    second.close()


def test_a_parked_record_is_kept_once_also_without_any_progress(stores: Stores) -> None:
    store = stores.opened()
    headers: list[tuple[str, bytes | None]] = [("odd", b"\xff\x00"), ("none", None)]
    parked = ParkedRecord(ONE, StoredRecord(7, None, b"\x00\xff", headers), 0, False, "why \0")

    for _ in range(2):
        applied = store.apply(step({}, {}, parked=[parked]))
        assert applied == Written(0, 0)

    assert stores.parked() == [("counters", 0, 7)]
    assert store.progress()[ONE] == Progress()


def test_rows_that_several_partitions_feed_can_be_written(stores: Stores) -> None:
    store = stores.opened()

    applied = store.apply(
        step({ONE: Progress()}, {ONE: Progress(1, 0)}, row("b", 1), row("a", 1), shared=True)
    )

    assert applied == Written(2, 0)


def test_a_recreated_topic_is_refused_at_the_start_and_later(stores: Stores) -> None:
    stores.opened().apply(begun(row("a", 5)))

    with pytest.raises(TopicRecreated, match="rebuild"):
        stores.opened({"counters": TopicInfo("topic-b", 2)})
