"""`tidelog topics`: the topics of the cluster."""

from __future__ import annotations

from tidelog.cli.kafka import reach
from tidelog.cli.output import Dev, Json, show_items
from tidelog.cli.system import find_system
from tidelog.kafka.topics import partition_counts, topic_ids


def topics(dev: Dev = None, as_json: Json = False) -> None:
    """List topics with their partitions and ids (a recreated topic has another id)."""
    system = find_system(dev)
    admin, cluster = reach(system.kafka_bootstrap_servers)
    names = sorted(
        name
        for name in cluster.topics
        if name.startswith(system.topic_prefix) and not name.startswith("__")
    )
    ids = topic_ids(admin, names) if names else {}
    counts = partition_counts(admin, names) if names else {}
    items = [
        {"name": name, "partitions": counts[name], "topic_id": ids[name]}
        for name in names
        if name in ids and name in counts
    ]
    show_items(items, ("name", "partitions", "topic_id"), as_json)
