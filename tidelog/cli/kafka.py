"""Kafka as the command line reaches it: quiet, and unreachable within seconds."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from tidelog.cli.output import NOT_RUNNING
from tidelog.errors import Unavailable
from tidelog.kafka.security import connection, hint

REACH_TIMEOUT_S = 5.0


def reach(bootstrap_servers: str) -> tuple[AdminClient, ClusterMetadata]:
    """A client and what the cluster tells of itself; raises Unavailable when nobody answers."""
    # log_level 0: librdkafka would write a line for each attempt; one error of ours says it all.
    refusals: list[str] = []
    client = AdminClient(
        {
            **connection(bootstrap_servers, refusals.append),
            "client.id": "tidelog-cli",
            "log_level": 0,
        }
    )
    try:
        return client, client.list_topics(timeout=REACH_TIMEOUT_S)
    except KafkaException as error:
        client.poll(0)  # the admin's client tells of refusals when it is asked
        if refusals:
            raise Unavailable(f"{bootstrap_servers}: {refusals[-1]}") from error
        raise Unavailable(
            f"Kafka at {bootstrap_servers} does not answer ({error.args[0].str()}); "
            f"{NOT_RUNNING}.{hint()}"
        ) from error
