"""The topics of a system: made once with a pinned partition count, checked at every start."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from tidelog.errors import ConfigurationError, Unavailable
from tidelog.kafka.security import connection

REQUEST_TIMEOUT_S = 10.0
DESCRIBE_POLL_S = 0.05
LATEST: Any = OffsetSpec._latest
COMMAND_RETENTION_MS = 7 * 24 * 60 * 60 * 1000

EVENTS_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
COMMANDS_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": str(COMMAND_RETENTION_MS),
}


def admin_client(bootstrap_servers: str) -> AdminClient:
    """A client for the requests of this module."""
    return AdminClient({**connection(bootstrap_servers), "client.id": "tidelog-admin"})


def ensure_topics(
    admin: AdminClient,
    topics: Mapping[str, Mapping[str, str]],
    partitions: int,
    replication_factor: int,
) -> None:
    """Create the topics that are missing; refuse one whose partition count is another.

    The partition of a key never changes, so a count is for ever: a topic with another count than
    the setting raises ConfigurationError and names the cure.
    """
    missing = [name for name in topics if name not in topic_ids(admin, topics)]
    if missing:
        new = [
            NewTopic(name, partitions, replication_factor, config=dict(topics[name]))
            for name in missing
        ]
        for name, future in admin.create_topics(new, operation_timeout=REQUEST_TIMEOUT_S).items():
            _created(name, future)
        _wait_until_described(admin, topics)
    for name, count in partition_counts(admin, topics).items():
        if count != partitions:
            raise ConfigurationError(
                f"topic {name} has {count} partitions, the setting TIDELOG_PARTITIONS says "
                f"{partitions}. The count is pinned at creation: set it to {count}."
            )


def topic_ids(admin: AdminClient, topics: Iterable[str]) -> dict[str, str]:
    """The id of each topic that exists (KIP-516); a recreated topic has another id."""
    return {name: str(found.topic_id) for name, found in _describe(admin, topics).items()}


def partition_counts(admin: AdminClient, topics: Iterable[str]) -> dict[str, int]:
    """The number of partitions of each topic that exists."""
    return {name: len(found.partitions) for name, found in _describe(admin, topics).items()}


def high_watermark(admin: AdminClient, topic: str, partition: int, timeout_s: float) -> int:
    """The offset after the last record of the partition, uncommitted records and markers included.

    A read_committed end offset would be the last stable one and may hide committed records that
    lie behind an open transaction (KAFKA-10167).
    """
    return _end(admin, TopicPartition(topic, partition), IsolationLevel.READ_UNCOMMITTED, timeout_s)


def stable_offset(admin: AdminClient, topic: str, partition: int, timeout_s: float) -> int:
    """The last stable offset: that of the first record whose transaction is still open, if any."""
    return _end(admin, TopicPartition(topic, partition), IsolationLevel.READ_COMMITTED, timeout_s)


def _end(
    admin: AdminClient, place: TopicPartition, isolation: IsolationLevel, timeout_s: float
) -> int:
    futures = admin.list_offsets(
        {place: LATEST}, isolation_level=isolation, request_timeout=timeout_s
    )
    end = int(futures[place].result().offset)
    if end < 0:  # what the client says, without an error, when no broker has answered it
        raise Unavailable(f"Kafka does not tell where {place.topic}[{place.partition}] ends")
    return end


def _wait_until_described(admin: AdminClient, topics: Iterable[str]) -> None:
    """A new topic is known to every broker a little later than it is made."""
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while missing := set(topics) - set(topic_ids(admin, topics)):
        if time.monotonic() > deadline:
            raise Unavailable(f"topic {min(missing)} was made, but Kafka does not describe it yet")
        time.sleep(DESCRIBE_POLL_S)


def _created(name: str, future: Any) -> None:
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise Unavailable(
                f"topic {name} could not be created: {error.args[0].str()}"
            ) from error


def _describe(admin: AdminClient, topics: Iterable[str]) -> dict[str, Any]:
    futures = admin.describe_topics(
        TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT_S
    )
    found = {}
    for name, future in futures.items():
        try:
            found[name] = future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                admin.poll(0)  # this client tells why it is refused when it is asked
                raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error
    return found
