"""What every projection store promises: memory and PostgreSQL pass the same suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest

from tests.fixtures.servers import Database
from tests.read_side import COUNTERS, Added, Counter
from tidelog import Projection
from tidelog.engine.folding import (
    Changes,
    Fact,
    FoldFailure,
    Parked,
    Partition,
    StoredRow,
)
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projecting import (
    Failed,
    Overtaken,
    ProjectionStore,
    Step,
    TopicInfo,
    Written,
)
from tidelog.errors import TopicRecreated
from tidelog.memory.projection_store import MemoryProjectionStore, MemoryTables
from tidelog.postgres.projection_store import PostgresProjectionStore

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


@dataclass
class Stores:
    """Makes stores over the same tables, as several processes have them."""

    make: Callable[[], ProjectionStore]
    parked: Callable[[], list[tuple[str, int, int]]]

    def opened(self, topics: Mapping[str, TopicInfo] = TOPICS) -> ProjectionStore:
        store = self.make()
        store.open(topics)
        return store


@pytest.fixture(params=["memory", "postgres"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    made: list[ProjectionStore] = []
    if request.param == "memory":
        tables = MemoryTables()

        def make() -> ProjectionStore:
            return MemoryProjectionStore(counter, tables)

        def parked() -> list[tuple[str, int, int]]:
            return [(*at, offset) for at, offset in sorted(tables.parked)]

    else:
        database: Database = request.getfixturevalue("database")

        def make() -> ProjectionStore:
            store = PostgresProjectionStore(counter, dsn=database.dsn, schema=database.schema)
            made.append(store)
            return store

        def parked() -> list[tuple[str, int, int]]:
            return parked_in(database)

    yield Stores(make, parked)
    for store in made:
        store.close()


def parked_in(database: Database) -> list[tuple[str, int, int]]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        found = connection.execute(
            'SELECT context, partition, "offset" FROM '
            f"{database.schema}.parked_records ORDER BY 1, 2, 3".encode()
        )
        return list(found.fetchall())


def row(key: str, total: int, version: int = 1) -> StoredRow:
    return StoredRow(Counter(counter_id=key, total=total), version, "counters:0:1", AT, AT)


def step(
    before: Mapping[Partition, Progress],
    after: Mapping[Partition, Progress],
    *upserts: StoredRow,
    deletes: list[str] | None = None,
    parked: list[Parked] | None = None,
    shared: bool = False,
) -> Step:
    rows = {each.row.counter_id: each for each in upserts}
    return Step(
        before=before,
        after=after,
        parked=parked or [],
        keys=sorted([*rows, *(deletes or [])]),
        shared=shared,
        fold=lambda _: Changes(rows, deletes or [], []),
    )


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

    def fold(rows: Mapping[str, StoredRow]) -> Changes:
        given.append(dict(rows))
        return Changes({}, [], [])

    store.apply(
        Step(
            before={ONE: Progress(1, 0)},
            after={ONE: Progress(2, 1)},
            parked=[],
            keys=["a", "new"],
            shared=False,
            fold=fold,
        )
    )

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


def test_a_failed_fold_writes_nothing(stores: Stores) -> None:
    store = stores.opened()
    fact = Fact(Added(counter_id="a", by=1), ONE, 0, 1, 1, AT)
    failure = FoldFailure("a", fact, ValueError("a bug"))

    applied = store.apply(
        begun()._replace(fold=lambda _: Changes({"b": row("b", 1)}, [], [failure]))
    )

    assert applied == Failed([failure])
    assert (store.rows(), store.progress()[ONE]) == ({}, Progress())


def test_a_parked_record_is_kept_once_also_without_any_progress(stores: Stores) -> None:
    store = stores.opened()
    headers: list[tuple[str, bytes | None]] = [("odd", b"\xff\x00"), ("none", None)]
    parked = Parked(ONE, StoredRecord(7, None, b"\x00\xff", headers), 0, False, "why \0")

    for _ in range(2):
        assert store.apply(step({}, {}, parked=[parked])) == Written(0, 0)

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
