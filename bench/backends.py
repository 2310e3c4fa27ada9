"""The processes whose CPU time is the backend's."""

from __future__ import annotations

import psycopg

from bench.sample import parent_of
from bench.stack import Stack


def backends_of(stack: Stack) -> list[int]:
    """Kafka, and the process whose children are PostgreSQL's backends."""
    with psycopg.connect(stack.postgres, autocommit=True) as connection:
        return [stack.kafka_pid, parent_of(connection.info.backend_pid)]
