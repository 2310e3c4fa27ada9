"""What every test may ask for: `kafka`, `postgres`, `namespace`, `database`."""

from __future__ import annotations

import os

import pytest

from tests.fixtures.containers import KAFKA_IMAGE, POSTGRES_IMAGE
from tests.fixtures.servers import database, kafka, namespace, postgres

__all__ = ["database", "kafka", "namespace", "postgres"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the servers of the run come from."""
    group = parser.getgroup("tidelog")
    group.addoption("--containers", action="store_true", help="Kafka and PostgreSQL from Docker")
    group.addoption(
        "--kafka-image",
        default=os.environ.get("KAFKA_IMAGE", KAFKA_IMAGE),
        help="with --containers (KAFKA_IMAGE)",
    )
    group.addoption(
        "--postgres-image",
        default=os.environ.get("POSTGRES_IMAGE", POSTGRES_IMAGE),
        help="with --containers (POSTGRES_IMAGE)",
    )
