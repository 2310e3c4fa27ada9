"""Given events, when the event index writes them, then each is there exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import psycopg
import pytest

from projectors.event_index import event_index
from schemas import CONTEXTS
from schemas.orders import ORDERS
from tests.fixtures.servers import Database
from tests.shop_log import PARTITIONS, ShopLog, cancelled, placed
from tidelog.codec import Codec
from tidelog.definition import definition_hash
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import Overtaken, Step, TopicInfo
from tidelog.engine.reading import Fact
from tidelog.errors import CodecError, DefinitionChanged, TopicRecreated
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.postgres.sql_store import SqlProjectionStore
from tidelog.registry import MemoryRegistry
from tidelog.wire import event_headers


@pytest.fixture
def log(database: Database) -> Iterator[ShopLog]:
    codec = Codec(CONTEXTS, MemoryRegistry())
    codec.prepare()
    log = ShopLog(database, codec)
    yield log
    log.close()


def indexed(log: ShopLog) -> list[Any]:
    schema = log.database.schema
    with psycopg.connect(log.database.dsn, autocommit=True) as connection:
        return connection.execute(
            'SELECT context, partition, sequence, "offset", aggregate_id, version, type, time, '
            f"correlation_id, causation_id, message_id, value FROM {schema}.event_index "
            "ORDER BY context, partition, sequence".encode()
        ).fetchall()


def row_of(fact: Fact) -> tuple[Any, ...]:
    metadata = fact.metadata
    return (
        *fact.partition,
        fact.sequence,
        fact.offset,
        metadata.subject,
        fact.version,
        type(fact.event).__name__,
        fact.recorded_at,
        metadata.correlation_id,
        metadata.causation_id,
        metadata.message_id,
        fact.record.value,
    )


def step(log: ShopLog, facts: list[Fact]) -> Step:
    """The step that writes the facts once more, from the progress before them."""
    after = {fact.partition: Progress(fact.sequence, fact.offset) for fact in facts}
    before = {at: Progress(to.sequence - 1, to.offset - 2) for at, to in after.items()}
    return Step(before, after, [], facts, [], [], False, lambda *_: pytest.fail("no fold"))


@contextmanager
def other_store(
    log: ShopLog, projection: SqlProjection = event_index, topic: str = "id"
) -> Iterator[SqlProjectionStore]:
    """The store of another process."""
    store = SqlProjectionStore(projection, dsn=log.database.dsn, schema=log.database.schema)
    with closing(store):
        contexts = projection.contexts
        store.open({each.name: TopicInfo(f"{topic}-{each.name}", PARTITIONS) for each in contexts})
        yield store


def test_every_event_is_indexed_with_its_place_and_its_bytes(log: ShopLog) -> None:
    for number in range(20):
        log.append(placed(f"o-{number}"), correlation_id=f"visit-{number}")
    log.append(*[cancelled(f"o-{number}") for number in range(10)])

    assert indexed(log) == sorted(row_of(fact) for fact in log.facts)
    assert log.index.progress()[log.facts[0].partition].sequence > 0


def test_a_batch_that_another_process_wrote_already_changes_nothing(log: ShopLog) -> None:
    (fact,) = log.append(placed("o-1"))
    before = indexed(log)

    with other_store(log) as other:
        assert other.apply(step(log, [fact])) == Overtaken()

        assert indexed(log) == before
        assert other.progress() == log.index.progress()


def test_an_event_that_postgresql_refuses_leaves_nothing_behind(log: ShopLog) -> None:
    (fact,) = log.append(placed("o-1"))
    sequence, offset = fact.sequence + 1, fact.offset + 2
    odd = msgspec.structs.replace(fact.metadata, correlation_id="a\0b")
    refused = fact._replace(
        sequence=sequence,
        offset=offset,
        record=fact.record._replace(headers=event_headers(odd, ORDERS.source)),
    )

    with pytest.raises(CodecError, match="refuses"):
        log.index.apply(step(log, [refused]))

    assert indexed(log) == [row_of(fact)]
    assert log.index.progress()[fact.partition] == Progress(fact.sequence, fact.offset)


def test_a_topic_that_was_made_again_is_refused(log: ShopLog) -> None:
    log.append(placed("o-1"))

    with pytest.raises(TopicRecreated), other_store(log, topic="another"):
        pytest.fail("it was opened")


def test_other_sql_under_the_same_version_is_refused(log: ShopLog) -> None:
    changed = replace(event_index, columns=event_index.columns + ", note text")

    assert definition_hash(changed) != definition_hash(event_index)
    cure = f"Raise its version to {event_index.version + 1}"
    with pytest.raises(DefinitionChanged, match=cure), other_store(log, changed):
        pytest.fail("it was opened")


def test_a_context_may_be_new_and_none_that_was_written_may_go(log: ShopLog) -> None:
    log.append(placed("o-1"))
    orders = [context for context in CONTEXTS if context.name == ORDERS.name]
    others = [context for context in CONTEXTS if context.name != ORDERS.name]

    with other_store(log, replace(event_index, name="fresh", contexts=orders)):
        pass
    with other_store(log, replace(event_index, name="fresh")) as grown:
        assert {at.context for at in grown.progress()} == {context.name for context in CONTEXTS}
    gone = replace(event_index, contexts=others)
    with pytest.raises(DefinitionChanged, match="reads orders no more"), other_store(log, gone):
        pytest.fail("it was opened")
