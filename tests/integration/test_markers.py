"""A marker that Kafka has forgotten: made by cutting it off the log of a broker that was killed."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaException, Producer

from tests.log_writer import until
from tidelog.embedded import kafka as embedded_kafka
from tidelog.engine.actions import Append, Commit, Fence, Slot
from tidelog.engine.ports import OutgoingRecord
from tidelog.kafka.markers import Fencing, MarkerClient
from tidelog.kafka.partition_log import PartitionLog
from tidelog.kafka.replay import PartitionReplay
from tidelog.kafka.topics import (
    EVENTS_CONFIG,
    admin_client,
    ensure_topics,
    high_watermark,
    stable_offset,
    topic_ids,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPIC = "forgetful.events"
TIMEOUT_S = 30.0
COMMITTED, ABORTED, FENCED_MEANWHILE, ANSWER_LOST = range(4)
CONTROL_BIT = 0x20


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker with a marker missing in each partition: of a commit, an abort, another commit."""
    folder = tmp_path_factory.mktemp("forgetful")
    with embedded_kafka.start(folder) as first:
        found = first.server.bootstrap_servers
        ensure_topics(admin_client(found), {TOPIC: EVENTS_CONFIG}, 4, 1)
        for partition in range(4):
            until(partial(answers, found, partition), "the partition has a leader", TIMEOUT_S)
        for partition in (COMMITTED, FENCED_MEANWHILE, ANSWER_LOST):
            commit_one(found, partition)
        abort_one(found, ABORTED)
        for partition in range(4):
            until(partial(settled, found, partition), "the marker is written", TIMEOUT_S)
        first.kill()
    for partition in range(4):
        cut_marker(folder, partition)
    with embedded_kafka.start(folder):
        yield found


def test_a_takeover_makes_an_acknowledged_commit_visible_again(servers: str) -> None:
    assert not settled(servers, COMMITTED)
    assert read_committed(servers, COMMITTED) == []
    fence(servers, COMMITTED)
    until(lambda: settled(servers, COMMITTED), "the log is stable to its end", TIMEOUT_S)
    assert read_committed(servers, COMMITTED) == [b"acknowledged"]


def test_a_takeover_leaves_an_aborted_transaction_aborted(servers: str) -> None:
    assert not settled(servers, ABORTED)
    fence(servers, ABORTED)
    until(lambda: settled(servers, ABORTED), "the log is stable to its end", TIMEOUT_S)
    assert read_committed(servers, ABORTED) == []


def test_what_was_told_before_the_id_was_initialised_still_holds_after_it(servers: str) -> None:
    """A takeover whose fence was answered too late tries again: by then Kafka has forgotten."""
    markers = MarkerClient(bootstrap_servers=servers, topic=TOPIC, partition=FENCED_MEANWHILE)
    try:
        told = markers.decided(transactional_id(FENCED_MEANWHILE), None)
        initialise(servers, FENCED_MEANWHILE)
        assert markers.decided(transactional_id(FENCED_MEANWHILE), None) is None
        assert markers.decided(transactional_id(FENCED_MEANWHILE), told) == told
        assert told is not None
        assert markers.settle(told)
        assert not markers.settle(told)
    finally:
        markers.close()
    until(lambda: settled(servers, FENCED_MEANWHILE), "the log is stable to its end", TIMEOUT_S)
    assert read_committed(servers, FENCED_MEANWHILE) == [b"acknowledged"]


def test_a_fence_whose_answer_was_lost_is_made_up_for_by_the_next_attempt(servers: str) -> None:
    fencing = Fencing(
        bootstrap_servers=servers,
        topic=TOPIC,
        partition=ANSWER_LOST,
        settled=partial(settled, servers, ANSWER_LOST),
    )

    def loses_its_answer() -> None:
        initialise(servers, ANSWER_LOST)
        raise ConnectionError("the answer was lost")

    with pytest.raises(ConnectionError):
        fencing.fence(transactional_id(ANSWER_LOST), loses_its_answer)
    assert not settled(servers, ANSWER_LOST)
    fencing.fence(transactional_id(ANSWER_LOST), partial(fence, servers, ANSWER_LOST))
    until(lambda: settled(servers, ANSWER_LOST), "the log is stable to its end", TIMEOUT_S)
    assert read_committed(servers, ANSWER_LOST) == [b"acknowledged"]


def transactional_id(partition: int) -> str:
    return f"{TOPIC}-{partition}-a"


def initialise(servers: str, partition: int) -> Producer:
    producer = Producer(
        {"bootstrap.servers": servers, "transactional.id": transactional_id(partition)}
    )
    producer.init_transactions(TIMEOUT_S)
    return producer


def partition_log(servers: str, partition: int) -> PartitionLog:
    admin = admin_client(servers)
    return PartitionLog(
        admin=admin,
        bootstrap_servers=servers,
        topic=TOPIC,
        partition=partition,
        topic_id=topic_ids(admin, [TOPIC])[TOPIC],
        transaction_timeout_ms=10_000,
    )


def fence(servers: str, partition: int) -> None:
    log = partition_log(servers, partition)
    try:
        log.perform(Fence(Slot.A), lambda: None)
    finally:
        log.close()


def commit_one(servers: str, partition: int) -> None:
    log = partition_log(servers, partition)
    try:
        log.perform(Fence(Slot.A), lambda: None)
        log.append(Append(Slot.A, True, [OutgoingRecord(b"key", b"acknowledged", [])]))
        log.perform(Commit(Slot.A, 1), lambda: None)
    finally:
        log.close()


def abort_one(servers: str, partition: int) -> None:
    producer = initialise(servers, partition)
    producer.begin_transaction()
    producer.produce(TOPIC, b"taken back", b"key", partition)
    assert producer.flush(TIMEOUT_S) == 0
    producer.abort_transaction(TIMEOUT_S)


def answers(servers: str, partition: int) -> bool:
    try:
        return settled(servers, partition)
    except KafkaException:
        return False


def settled(servers: str, partition: int) -> bool:
    admin = admin_client(servers)
    place = TOPIC, partition, TIMEOUT_S
    return stable_offset(admin, *place) == high_watermark(admin, *place)


def read_committed(servers: str, partition: int) -> list[bytes | None]:
    replay = PartitionReplay(bootstrap_servers=servers, topic=TOPIC, partition=partition)
    try:
        records, _ = replay.read(0)
        return [record.value for record in records]
    finally:
        replay.close()


def cut_marker(folder: Path, partition: int) -> None:
    """Cut the last batch off the partition's log, which must be a marker."""
    (segment,) = folder.rglob(f"{TOPIC}-{partition}/00000000000000000000.log")
    data, start, last = segment.read_bytes(), 0, 0
    while start < len(data):
        last = start
        (length,) = struct.unpack_from(">i", data, start + 8)
        start += 12 + length
    (attributes,) = struct.unpack_from(">h", data, last + 21)
    assert attributes & CONTROL_BIT, "the last batch is no marker"
    segment.write_bytes(data[:last])
