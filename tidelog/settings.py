"""Settings of every Tidelog process, read from the environment (prefix `TIDELOG_`).

One class for all services: a setting means the same thing wherever it is read. An unknown
`TIDELOG_` variable or a value of the wrong type stops the process at start and names the key.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidelog.errors import ConfigurationError

PREFIX = "TIDELOG_"

# Variables that the command line tools read themselves; they are not settings of a service.
_TOOL_VARIABLES = frozenset({"TIDELOG_DEV", "TIDELOG_DATA"})


class Settings(BaseSettings):
    """Where the parts are, and the bounds within which a process works."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    # Where things are.
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    registry_url: str = "http://127.0.0.1:8081"
    postgres_dsn: str = "postgresql://postgres@127.0.0.1:5432/postgres"
    postgres_schema: str = Field(default="public", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    command_service_url: str = "http://127.0.0.1:8001"
    query_service_url: str = "http://127.0.0.1:8002"

    # This process.
    instance: str = Field(default="1", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535, description="0 takes a free port")
    state_dir: Path = Field(
        default=Path(".tidelog/state"), description="checkpoints of partition owners"
    )
    log_level: str = Field(default="info", pattern=r"^(debug|info|warning|error)$")

    # Names: several systems may share one cluster.
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")

    # The log.
    partitions: int = Field(default=6, ge=1, le=1000, description="per topic; pinned at creation")
    replication_factor: int = Field(default=1, ge=1, le=10)

    # The command side.
    transaction_timeout_ms: int = Field(default=10_000, ge=1_000, le=900_000)
    session_timeout_ms: int = Field(default=6_000, ge=1_000, le=300_000)
    command_timeout_ms: int = Field(default=10_000, ge=100, le=120_000)
    command_queue_max: int = Field(
        default=4_096, ge=1, description="waiting commands per partition"
    )
    batch_commands_max: int = Field(default=512, ge=1, description="commands per transaction")
    batch_bytes_max: int = Field(
        default=4 * 1024 * 1024, ge=1_024, description="bytes per transaction"
    )
    record_bytes_max: int = Field(
        default=1_000_000, ge=1_024, description="one record, headers included"
    )
    idempotency_window_hours: int = Field(default=168, ge=1, description="counted by log time")
    cached_states_max: int = Field(
        default=50_000, ge=1, description="aggregate states per partition"
    )

    # The read side.
    projection_batch_events_max: int = Field(default=2_000, ge=1)
    consistency_wait_max: int = Field(
        default=1_000, ge=1, description="requests waiting for a token"
    )
    postgres_pool_max: int = Field(default=16, ge=1, le=500)


def load_settings() -> Settings:
    """Read the environment; an unknown or malformed key raises ConfigurationError naming it."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX) and name not in known and name not in _TOOL_VARIABLES
    )
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]} is not a setting; known: {', '.join(sorted(known))}"
        )
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(f"{key}: {first['msg']}") from None


def redacted(url: str) -> str:
    """The URL or DSN without its password, fit for a log line."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", url)
