"""Given a read model that differs from the log, when it is proved, then the difference is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.log_writer import LogWriter, until
from tests.read_side import COUNTERS, Added
from tests.rebuild_world import BulkWorld, bulk, bulk_registry, bulk_workers
from tidelog.errors import LogHole, TopicRecreated, Unknown
from tidelog.kafka.topics import admin_client

__all__ = ["bulk", "bulk_registry", "bulk_workers"]


@pytest.fixture
def built(bulk: BulkWorld) -> BulkWorld:
    """The counters, rebuilt; among them one with three events of its own."""
    bulk.append_some(1_500)
    for by in (1, 2, 4):
        bulk.log.append(Added(counter_id="mine", by=by))
    bulk.rebuild(prove=False)
    return bulk


def difference(built: BulkWorld, name: str = "counter", **options: Any) -> dict[str, Any]:
    """The first difference, in a read model that has one."""
    proof = built.verify(name, **options)
    assert not proof.equal
    assert proof.first_difference is not None
    return dict(proof.first_difference)


def position(built: BulkWorld, number: int) -> str:
    """The position of the counter's n-th event: its last three are the partition's last."""
    partition = built.log.partition("mine")
    return f"counters:{partition}:{built.log.positions()[partition] - 3 + number}"


def test_a_changed_value_is_named_with_both_rows(built: BulkWorld) -> None:
    built.query("UPDATE {s}.counter__v1_g1 SET total = 99 WHERE counter_id = 'mine'")

    found = difference(built)

    assert (found["key"], found["position"], found["type"]) == ("mine", position(built, 3), "Added")
    assert found["columns"] == ["total"]
    assert (found["expected"]["total"], found["found"]["total"]) == (7, 99)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", "17"),
        ("position", "'counters:0:1'"),
        ("position", "'elsewhere'"),
        ("created_at", "now()"),
        ("updated_at", "now()"),
    ],
)
def test_what_the_engine_keeps_is_compared_too(built: BulkWorld, column: str, value: str) -> None:
    built.query(f"UPDATE {{s}}.counter__v1_g1 SET {column} = {value} WHERE counter_id = 'mine'")

    found = difference(built)

    assert (found["key"], found["columns"]) == ("mine", [column])
    assert found["expected"] is not None and found["found"] is not None


def test_a_missing_row_is_named_with_the_event_that_makes_it(built: BulkWorld) -> None:
    built.query("DELETE FROM {s}.counter__v1_g1 WHERE counter_id = 'mine'")

    found = difference(built)

    assert (found["key"], found["position"]) == ("mine", position(built, 1))
    assert found["expected"]["total"] == 7
    assert found["found"] is None


def test_a_row_that_no_event_makes_is_named(built: BulkWorld) -> None:
    built.query(
        "INSERT INTO {s}.counter__v1_g1 SELECT 'nobody', total, version, position, created_at, "
        "updated_at FROM {s}.counter__v1_g1 WHERE counter_id = 'mine'"
    )

    found = difference(built)

    assert (found["key"], found["position"], found["expected"]) == ("nobody", None, None)
    assert found["reason"] == "no event of the log makes this row"


def test_an_event_that_was_skipped_is_named(built: BulkWorld) -> None:
    built.query("UPDATE {s}.counter__v1_g1 SET total = total - 2 WHERE counter_id = 'mine'")

    found = difference(built)

    assert (found["position"], found["reason"]) == (
        position(built, 2),
        "the row holds every event but this one",
    )


def test_positions_that_went_on_without_their_rows_are_found(built: BulkWorld) -> None:
    partition = built.log.partition("mine")
    built.log.append(Added(counter_id="mine", by=8))
    built.query(
        "UPDATE {s}.projection_positions SET sequence = sequence + 1 "
        f"WHERE partition = {partition}"
    )

    found = difference(built)

    assert (found["key"], found["position"]) == ("mine", position(built, 3))
    assert (found["expected"]["total"], found["found"]["total"]) == (15, 7)


def test_of_several_differences_the_oldest_is_the_first(built: BulkWorld) -> None:
    oldest = built.query(
        "SELECT counter_id FROM {s}.counter__v1_g1 ORDER BY created_at, counter_id LIMIT 1"
    )[0][0]
    built.query(f"DELETE FROM {{s}}.counter__v1_g1 WHERE counter_id IN ('mine', '{oldest}')")

    proof = built.verify()

    assert proof.differing == 2
    assert proof.first_difference is not None
    assert proof.first_difference["key"] == oldest


def test_one_key_and_a_sample_are_proved_alone(built: BulkWorld) -> None:
    assert built.verify(keys=["mine"]).equal
    assert built.verify(keys=["mine"]).rows == 1
    assert built.verify(sample=5).rows == 5
    built.query("UPDATE {s}.counter__v1_g1 SET total = 99 WHERE counter_id = 'c-1'")

    assert built.verify(keys=["mine"]).equal
    assert difference(built, keys=["c-1"])["key"] == "c-1"


def test_a_log_that_ends_before_the_positions_is_told(built: BulkWorld) -> None:
    built.query("UPDATE {s}.projection_positions SET sequence = sequence + 5")

    with pytest.raises(LogHole, match="Events are missing at its end"):
        built.verify()


def test_a_fold_that_fails_now_is_a_difference_unless_the_key_is_parked(bulk: BulkWorld) -> None:
    bulk.log.append(Added(counter_id="mine", by=1), Added(counter_id="mine", by=-1))
    bulk.rebuild(prove=False)
    assert bulk.verify().equal
    bulk.query("DELETE FROM {s}.parked_keys")

    found = difference(bulk)

    assert (found["key"], found["type"]) == ("mine", "Added")
    assert "the key is not parked" in found["reason"]


def test_rows_that_several_partitions_feed_are_proved(bulk: BulkWorld) -> None:
    bulk.append_some(1_000)
    bulk.rebuild("grouped", prove=False)
    assert bulk.verify("grouped").equal
    bulk.query("UPDATE {s}.grouped__v1_g1 SET total = total - 1 WHERE counter_id = 'group-3'")

    found = difference(bulk, "grouped")

    assert (found["key"], found["columns"]) == ("group-3", ["total"])
    assert found["position"] is not None


def test_rows_of_sql_of_its_own_are_proved_by_writing_them_again(bulk: BulkWorld) -> None:
    bulk.append_some(500)
    bulk.rebuild("journal", prove=False)
    assert bulk.verify("journal").equal
    bulk.query("UPDATE {s}.journal__v1_g1 SET type = 'Other' WHERE position = 'counters:0:1'")
    bulk.query("DELETE FROM {s}.journal__v1_g1 WHERE position = 'counters:1:1'")

    proof = bulk.verify("journal")

    assert (proof.equal, proof.differing) == (False, 2)
    assert proof.first_difference is not None
    assert proof.first_difference["expected"]["position"] == "counters:0:1"
    assert proof.first_difference["found"]["type"] == "Other"
    assert bulk.tables() == ["journal__v1_g1"]


def test_a_read_model_is_proved_while_it_is_fed(bulk: BulkWorld) -> None:
    bulk.append_some(500)
    with bulk.projectors():
        bulk.caught_up()
        for _ in range(3):
            bulk.append_some(300)
            proof = bulk.verify()
            assert proof.equal, proof.first_difference


def test_a_topic_that_was_made_again_is_refused(bulk: BulkWorld) -> None:
    bulk.append_some(100)
    bulk.rebuild()
    kafka, prefix = bulk.site.bootstrap_servers, bulk.site.topic_prefix
    admin = admin_client(kafka)
    admin.delete_topics([bulk.log.topic])[bulk.log.topic].result()

    def made_again() -> LogWriter | None:
        try:
            return LogWriter(kafka, COUNTERS, bulk.codec, topic_prefix=prefix)
        except Exception:
            return None

    until(made_again, "the topic is made again")

    with pytest.raises(TopicRecreated, match="restore the topic"):
        bulk.verify()


def test_what_never_ran_cannot_be_proved(bulk: BulkWorld) -> None:
    with pytest.raises(Unknown, match="has no table yet"):
        bulk.verify()
