"""Kafka as the command line reaches it: quiet, and unreachable within seconds."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from tidelog.errors import Unavailable

REACH_TIMEOUT_S = 5.0


def reach(bootstrap_servers: str) -> tuple[AdminClient, ClusterMetadata]:
    """A client and what the cluster tells of itself; raises Unavailable when nobody answers."""
    # log_level 0: librdkafka would write a line for each attempt; one error of ours says it all.
    client = AdminClient(
        {"bootstrap.servers": bootstrap_servers, "client.id": "tidelog-cli", "log_level": 0}
    )
    try:
        return client, client.list_topics(timeout=REACH_TIMEOUT_S)
    except KafkaException as error:
        raise Unavailable(
            f"Kafka at {bootstrap_servers} does not answer ({error.args[0].str()}); "
            "start the stack with ./dev up, or name a running one with --dev FILE"
        ) from error
