"""What every test may ask for: `kafka`, `postgres`, `namespace`, `database`."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

from tests.fixtures.containers import KAFKA_IMAGE, POSTGRES_IMAGE
from tests.fixtures.servers import SharedServers, database, kafka, namespace, postgres

__all__ = ["database", "kafka", "namespace", "postgres"]

# One commit gives one answer, however busy the machine: no example has a deadline. Other examples
# than these: `./dev test --hypothesis-profile explore`.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("same")


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


def pytest_configure(config: pytest.Config) -> None:
    """On several workers the run itself has the servers; each can be interrupted."""
    # A shell has what it runs in the background ignore Ctrl-C, and all that this starts as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(SharedServers())
