"""The registry's state as a fold of its log, and its writes among several instances."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelog.errors import LogError, LogFork, Unavailable
from tidelog.registry import decisions
from tidelog.registry.errors import RegistryRefusal
from tidelog.registry.log import Fenced, LogRecord, MemoryLog, MemoryTopic
from tidelog.registry.service import RegistryService
from tidelog.registry.store import SchemaStore, Version, schema_record

TEXTS = ['"int"', '"long"', '"string"']


def service(topic: MemoryTopic) -> RegistryService:
    opened = RegistryService(MemoryLog(topic))
    opened.open()
    return opened


def compacted(records: list[LogRecord]) -> list[LogRecord]:
    """What compaction leaves: the last record of each key, in order, tombstones gone too."""
    last = {record.key: index for index, record in enumerate(records)}
    return [
        record
        for index, record in enumerate(records)
        if last[record.key] == index and record.value is not None
    ]


def attempt(registry: RegistryService, operation: str, subject: str, text: str) -> None:
    """One operation; that the registry refuses it is an answer, too."""
    decide = {
        "register": lambda store: decisions.register(store, subject, text),
        "delete": lambda store: decisions.delete_subject(store, subject, permanent=False),
        "delete for good": lambda store: decisions.delete_subject(store, subject, permanent=True),
        "delete version": lambda store: decisions.delete_version(
            store, subject, "latest", permanent=False
        ),
        "level": lambda store: decisions.set_level(store, subject, "NONE"),
        "read only": lambda store: decisions.set_mode(store, subject, "READONLY"),
        "writable": lambda store: decisions.set_mode(store, subject, "READWRITE"),
    }[operation]
    with contextlib.suppress(RegistryRefusal):
        registry.write(decide)


OPERATIONS = st.tuples(
    st.sampled_from(
        [
            "register",
            "register",
            "level",
            "delete",
            "delete for good",
            "delete version",
            "read only",
            "writable",
        ]
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from(TEXTS),
)


@given(st.lists(OPERATIONS, max_size=30))
def test_the_compacted_log_folds_to_the_same_store(
    operations: list[tuple[str, str, str]],
) -> None:
    topic = MemoryTopic()
    registry = service(topic)
    given_ids: dict[int, str] = {}
    for operation, subject, text in operations:
        attempt(registry, operation, subject, text)
        for schema_id, known in registry.store.texts.items():
            assert given_ids.setdefault(schema_id, known) == known, "an id is never given again"
    assert SchemaStore().after(topic.records) == registry.store
    assert SchemaStore().after(compacted(topic.records)) == registry.store


def test_the_same_schema_under_another_subject_has_the_same_id() -> None:
    registry = service(MemoryTopic())
    first = registry.register("a", '"string"')
    second = registry.register("b", ' { "type" : "string" } ')
    assert first.schema_id == second.schema_id
    assert registry.register("a", '"string"') == first


def test_a_schema_registered_again_after_deletion_is_a_new_version_with_its_old_id() -> None:
    registry = service(MemoryTopic())
    first = registry.register("a", '"string"')
    attempt(registry, "delete", "a", "")
    again = registry.register("a", '"string"')
    assert (again.version, again.schema_id) == (2, first.schema_id)


def test_an_id_is_not_given_again_after_its_schema_was_deleted_for_good() -> None:
    topic = MemoryTopic()
    registry = service(topic)
    first = registry.register("a", '"string"')
    attempt(registry, "delete", "a", "")
    attempt(registry, "delete for good", "a", "")
    topic.records[:] = compacted(topic.records)
    assert service(topic).register("b", '"int"').schema_id == first.schema_id + 1


def test_another_instance_finds_everything() -> None:
    topic = MemoryTopic()
    first = service(topic)
    schema_id = first.register("a", '"string"').schema_id
    assert service(topic).text(schema_id) == '"string"'


def test_two_instances_that_write_in_turn_never_give_one_id_twice() -> None:
    topic = MemoryTopic()
    one, two = service(topic), service(topic)
    ids = [
        one.register("a", '"int"'),
        two.register("b", '"long"'),
        one.register("c", '"string"'),
    ]
    assert [version.schema_id for version in ids] == [1, 2, 3]
    assert two.text(3) == '"string"'


def test_a_writer_that_was_fenced_leaves_nothing() -> None:
    topic = MemoryTopic()
    late, new = MemoryLog(topic), MemoryLog(topic)
    late.take_over()
    new.take_over()
    with pytest.raises(Fenced):
        late.append([LogRecord(key=b"{}", value=None)])
    assert topic.records == []


class LogThatLosesAnswers(MemoryLog):
    """A log whose appends land although their outcome is never told."""

    def append(self, records: Sequence[LogRecord]) -> None:
        super().append(records)
        raise Unavailable("no answer")


def test_a_write_whose_outcome_is_unknown_is_found_when_it_is_sent_again() -> None:
    topic = MemoryTopic()
    registry = RegistryService(LogThatLosesAnswers(topic))
    registry.open()
    with pytest.raises(Unavailable):
        registry.register("a", '"int"')
    assert registry.register("a", '"int"').version == 1
    assert registry.store.names() == ["a"]
    assert len(topic.records) == 1


def test_two_schemas_under_one_id_are_a_fork() -> None:
    one = schema_record(Version(subject="a", version=1, schema_id=1), '"int"')
    two = schema_record(Version(subject="b", version=1, schema_id=1), '"long"')
    with pytest.raises(LogFork):
        SchemaStore().after([one, two])


@pytest.mark.parametrize(
    "record",
    [
        LogRecord(key=b"not json", value=b"{}"),
        LogRecord(key=b"[]", value=b"{}"),
        LogRecord(key=b'{"keytype":"CLEAR_SUBJECT"}', value=b"{}"),
        LogRecord(key=b'{"keytype":"SCHEMA","subject":"a","version":true}', value=b"{}"),
        LogRecord(key=b'{"keytype":"SCHEMA","subject":"a","version":1}', value=b'{"id":1}'),
    ],
)
def test_a_record_that_is_not_understood_stops_the_fold_loudly(
    record: LogRecord,
) -> None:
    with pytest.raises(LogError):
        SchemaStore().after([record])


def test_a_level_for_all_does_not_weaken_the_subjects_of_events() -> None:
    registry = service(MemoryTopic())
    registry.write(lambda store: decisions.set_level(store, None, "NONE"))
    assert decisions.level_of(registry.store, "a-value") == "NONE"
    assert decisions.level_of(registry.store, "orders.events-x.Y") == "FULL_TRANSITIVE"
    registry.write(lambda store: decisions.set_level(store, "orders.events-x.Y", "FULL"))
    assert decisions.level_of(registry.store, "orders.events-x.Y") == "FULL"


def test_a_store_that_was_read_does_not_change() -> None:
    registry = service(MemoryTopic())
    before = registry.store
    registry.register("a", '"int"')
    assert before.names() == [] and registry.store.names() == ["a"]
