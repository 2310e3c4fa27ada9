"""The group's thread: what proves membership, and what must not stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from tidelog.kafka import membership
from tidelog.kafka.lease import Lease
from tidelog.kafka.membership import (
    GroupMembership,
    MembershipEvents,
    Place,
    heartbeat_ms,
)
from tidelog.kafka.records import stored_record

PLACE = ("doors.commands", 0)


class Clock(Lease):
    """A lease on a clock that is set by hand."""

    now = 100.0

    @staticmethod
    def clock() -> float:
        return Clock.now


class FakeConsumer:
    """Remembers what it was asked for."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.commits: list[list[TopicPartition]] = []
        self.paused: set[Place] = set()

    def committed(self, partitions: list[TopicPartition], **_: object) -> list[TopicPartition]:
        return partitions

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, 0

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.commits.append(offsets)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None: ...

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None: ...

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {(found.topic, found.partition) for found in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {(found.topic, found.partition) for found in partitions}


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch) -> list[FakeConsumer]:
    made: list[FakeConsumer] = []

    def make(config: dict[str, Any]) -> FakeConsumer:
        made.append(FakeConsumer(config))
        return made[-1]

    monkeypatch.setattr(membership, "Consumer", make)
    monkeypatch.setattr(Clock, "now", 100.0)
    return made


def member(lease: Lease, told: Any = None) -> GroupMembership:
    def nothing(*_: object) -> None: ...

    return GroupMembership(
        bootstrap_servers="",
        group="g",
        client_id="c",
        topics=["doors.commands"],
        session_timeout_ms=6_000,
        lease=lease,
        events=MembershipEvents(
            assigned=nothing, released=told or nothing, lost=nothing, records=nothing
        ),
    )


def test_a_member_misses_several_heartbeats_before_its_session_is_over() -> None:
    for session_timeout_ms in (1_000, 6_000, 300_000):
        assert 100 <= heartbeat_ms(session_timeout_ms) <= session_timeout_ms / 10


def test_a_late_answer_proves_membership_only_since_its_own_request(
    consumers: list[FakeConsumer],
) -> None:
    lease = Clock(6_000)
    one = member(lease)
    consumer = consumers[0]
    one._on_assign(consumer, [TopicPartition(*PLACE)])
    assert one._ask_for_proof()
    Clock.now += 30  # the process was stopped; the group has given the partition away since
    assert one._ask_for_proof()
    consumer.config["on_commit"](None, consumer.commits[0])
    assert not lease.holds()
    consumer.config["on_commit"](None, consumer.commits[1])
    assert lease.holds()


def test_a_pause_ends_with_the_tenure_that_asked_for_it(consumers: list[FakeConsumer]) -> None:
    one = member(Clock(6_000))
    consumer = consumers[0]
    for applied in (True, False):
        one._on_assign(consumer, [TopicPartition(*PLACE)])
        one.flow(PLACE, on=False)
        if applied:
            one._apply_flow()
        one._on_revoke(consumer, [TopicPartition(*PLACE)])
        one._on_assign(consumer, [TopicPartition(*PLACE)])
        one._apply_flow()
        assert consumer.paused == set()


def test_a_listener_that_fails_does_not_keep_the_partition(consumers: list[FakeConsumer]) -> None:
    def fail(_: Sequence[Place]) -> None:
        raise RuntimeError("the disk is gone")

    one = member(Clock(6_000), told=fail)
    one._on_assign(consumers[0], [TopicPartition(*PLACE)])
    one._on_revoke(consumers[0], [TopicPartition(*PLACE)])
    assert not one._ask_for_proof()  # nothing is owned any more


def test_a_header_name_that_is_no_text_makes_a_record_foreign_not_a_fault() -> None:
    class Message:
        def offset(self) -> int:
            return 7

        def key(self) -> bytes:
            return b"k"

        value = key

        def headers(self) -> list[tuple[str, bytes]]:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    assert stored_record(Message()) == (7, b"k", b"k", [])
