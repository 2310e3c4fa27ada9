"""Given the group on a real broker, a member begins with the oldest command that is not done."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tidelog.engine.ports import StoredRecord
from tidelog.kafka.lease import Lease
from tidelog.kafka.membership import GroupMembership, MembershipEvents, Place
from tidelog.kafka.topics import COMMANDS_CONFIG, admin_client, ensure_topics

SESSION_TIMEOUT_MS = 6_000
TIMEOUT_S = 30.0
COMMANDS = 6


@contextmanager
def member(kafka: str, topic: str, seen: Callable[[int], None]) -> Iterator[GroupMembership]:
    """A member of the topic's own group; `seen` hears the offset of each command."""

    def records(_: Place, found: Sequence[StoredRecord]) -> None:
        for record in found:
            seen(record.offset)

    def nothing(_: Sequence[Place]) -> None: ...

    made = GroupMembership(
        bootstrap_servers=kafka,
        group=f"{topic}-group",
        client_id="member",
        topics=[topic],
        session_timeout_ms=SESSION_TIMEOUT_MS,
        lease=Lease(SESSION_TIMEOUT_MS),
        events=MembershipEvents(assigned=nothing, released=nothing, lost=nothing, records=records),
    )
    made.start()
    try:
        yield made
    finally:
        made.stop(TIMEOUT_S)


def begun_at(kafka: str, topic: str, done: int = 0) -> int:
    """The first offset that a member hears of; commands below `done` are processed by it then."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    with member(kafka, topic, heard.put) as joined:
        first = heard.get(timeout=TIMEOUT_S)
        joined.processed((topic, 0), done)
    return first


def topic_of(kafka: str, namespace: str) -> str:
    """A topic of commands with a few of them."""
    topic = f"{namespace}doors.commands"
    ensure_topics(admin_client(kafka), {topic: COMMANDS_CONFIG}, 1, 1)
    producer = Producer({"bootstrap.servers": kafka})
    for number in range(COMMANDS):
        producer.produce(topic, key=b"door-1", value=b"%d" % number)
    assert producer.flush(TIMEOUT_S) == 0
    return topic


def forget_below(kafka: str, topic: str, offset: int) -> None:
    """As the retention of commands does."""
    admin = AdminClient({"bootstrap.servers": kafka})
    (deleted,) = admin.delete_records([TopicPartition(topic, 0, offset)]).values()
    deleted.result(TIMEOUT_S)


def test_a_member_begins_behind_the_last_command_that_is_done(kafka: str, namespace: str) -> None:
    topic = topic_of(kafka, namespace)
    assert begun_at(kafka, topic, done=3) == 0
    assert begun_at(kafka, topic) == 3


def test_a_new_group_begins_with_the_oldest_command_that_is_kept(
    kafka: str, namespace: str
) -> None:
    topic = topic_of(kafka, namespace)
    forget_below(kafka, topic, 2)
    assert begun_at(kafka, topic) == 2


def test_a_member_whose_next_command_is_kept_no_more_begins_with_the_oldest_one(
    kafka: str, namespace: str
) -> None:
    # given a member that has come to the second command, when it is away for longer than they last
    topic = topic_of(kafka, namespace)
    assert begun_at(kafka, topic, done=1) == 0
    forget_below(kafka, topic, 4)
    # then it goes on with the oldest that is there, and passes over none of those
    assert begun_at(kafka, topic) == 4
