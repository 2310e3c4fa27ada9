"""Settings of every Tidelog process, read from the environment (prefix `TIDELOG_`).

One class for all services: a setting means the same thing wherever it is read. An unknown
`TIDELOG_` variable or a value of the wrong type stops the process at start and names the key.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo
from pydantic import Field, ValidationError

from tidelog.errors import ConfigurationError
from tidelog.security import ENVIRONMENT_PREFIX, Security, malformed

PREFIX = ENVIRONMENT_PREFIX

# Variables that the command line tools read themselves; they are not settings of a service.
_TOOL_VARIABLES = frozenset({"TIDELOG_DEV", "TIDELOG_DATA", "TIDELOG_TOKEN"})


class Settings(Security):
    """Where the parts are, and the bounds within which a process works."""

    # Where things are.
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    registry_url: str = "http://127.0.0.1:8081"
    postgres_dsn: str = Field(default="postgresql://postgres@127.0.0.1:5432/postgres", repr=False)
    postgres_schema: str = Field(default="public", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    command_service_url: str = "http://127.0.0.1:8001"
    command_service_instances: str = Field(
        default="", description="URLs of its instances, with commas; empty: the URL above"
    )
    query_service_url: str = "http://127.0.0.1:8002"
    query_service_grpc: str = Field(
        default="127.0.0.1:9002",
        pattern=r"^[A-Za-z0-9.:\[\]_-]{1,255}:[0-9]{1,5}$",
        description="host:port where the gateway asks about the stock",
    )
    live_metrics_url: str = "http://127.0.0.1:8003"
    payment_provider_url: str = "http://127.0.0.1:8004"
    carrier_url: str = "http://127.0.0.1:8005"
    smtp_host: str = "127.0.0.1"
    smtp_port: int = Field(default=2525, ge=1, le=65535)

    # This process.
    instance: str = Field(default="1", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535, description="0 takes a free port")
    grpc_port: int = Field(default=0, ge=0, le=65535, description="0 takes a free port")
    grpc_address: str = Field(
        default="",
        pattern=r"^(|[A-Za-z0-9.:\[\]_-]{1,255}:[0-9]{1,5})$",
        description="host:port by which other instances reach this one; empty: where it listens",
    )
    drain_ms: int = Field(
        default=0, ge=0, le=600_000, description="served on, and not ready, once told to stop"
    )
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
    projections: str = Field(
        default="projectors:PROJECTIONS", description="the list of projections: module:NAME"
    )
    projections_only: str = Field(
        default="", description="names, with commas: of the list, only these are fed"
    )
    sagas: str = Field(
        default="sagas.definitions:SAGAS",
        description="the list of sagas: module:NAME; may be empty",
    )
    projection_batch_events_max: int = Field(default=2_000, ge=1)
    projection_queue_events_max: int = Field(
        default=8_000, ge=1, description="decoded events that wait for a read model"
    )
    consistency_wait_max: int = Field(
        default=1_000, ge=1, description="requests waiting for a token"
    )
    postgres_pool_max: int = Field(default=16, ge=1, le=500)
    event_streams_max: int = Field(default=1_000, ge=1, description="open event streams")
    event_streams_per_caller_max: int = Field(default=1_000, ge=1, description="of one caller")

    # The gateway.
    gateway_auth: str = Field(default="off", pattern=r"^(off|on)$")
    gateway_jwks_file: str = Field(default="", description="public keys that sign tokens")
    gateway_issuer: str = Field(default="", description="the `iss` of every token")
    gateway_audience: str = Field(default="tidelog", description="in the `aud` of every token")
    gateway_api_keys_file: str = Field(default="", description="hashed keys of machines")
    gateway_queries_per_minute: int = Field(
        default=6_000, ge=0, description="of one caller on one route; 0 is no limit"
    )
    gateway_commands_per_minute: int = Field(
        default=3_000, ge=0, description="of one caller on one route; 0 is no limit"
    )
    gateway_streams_per_caller_max: int = Field(default=20, ge=1, description="at one gateway")
    gateway_cors_origins: str = Field(default="", description="of other sites, with commas")
    gateway_cache_bytes_max: int = Field(
        default=33_554_432, ge=0, description="of answers that are kept; 0 keeps none"
    )

    # Effects: what is done outside.
    effect_timeout_ms: int = Field(default=3_000, ge=50, le=60_000, description="of one call")
    effect_calls_max: int = Field(default=16, ge=1, le=1_000, description="at once per bulkhead")
    effect_attempts_max: int = Field(default=8, ge=1, le=1_000)
    effect_pause_ms: int = Field(default=500, ge=10, description="before the second attempt")
    effect_give_up_ms: int = Field(
        default=300_000, ge=1_000, description="how long work is tried before it is given up"
    )
    effect_lease_ms: int = Field(
        default=30_000, ge=1_000, description="how long a dead worker keeps its work"
    )
    effect_ended_kept_days: int = Field(
        default=90, ge=1, le=36_500, description="how long it is told what became of work"
    )
    breaker_open_ms: int = Field(default=10_000, ge=100, description="before it tries again")
    breaker_window_ms: int = Field(
        default=30_000, ge=100, description="how far back a breaker looks"
    )
    breaker_calls_min: int = Field(
        default=10, ge=1, description="calls within it before the breaker may open"
    )
    breaker_failure_share: float = Field(
        default=0.5, gt=0, le=1, description="of them that must have failed for it to open"
    )
    notification_age_max_hours: int = Field(
        default=72, ge=1, description="customers are told of nothing that is older"
    )

    # Mail.
    smtp_timeout_ms: int = Field(
        default=20_000,
        ge=50,
        le=600_000,
        description="of one mail; what a server takes later than this is sent again",
    )
    smtp_security: str = Field(default="none", pattern=r"^(none|starttls|tls)$")
    smtp_user: str = ""
    smtp_password: str = Field(default="", repr=False)
    mail_sender: str = Field(default="shop@tidelog.example", pattern=r"^[!-?A-~]+@[A-Za-z0-9.-]+$")
    mail_domain: str = Field(
        default="customers.example",
        pattern=r"^[A-Za-z0-9.-]+$",
        description="a customer's address is their id at this domain",
    )


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
        settings = Settings()
    except ValidationError as error:
        raise ConfigurationError(malformed(error)) from None
    settings.check()
    return _with_identity(settings)


def _with_identity(settings: Settings) -> Settings:
    """The settings with a DSN that holds what PostgreSQL is to be told of TLS and password."""
    parameters = settings.postgres_parameters()
    if not parameters:
        return settings
    try:
        dsn = make_conninfo(settings.postgres_dsn, **parameters)
    except ProgrammingError:
        # The library's own message repeats the DSN, and so a password in it.
        raise ConfigurationError(f"{PREFIX}POSTGRES_DSN: not a DSN that can be read") from None
    return settings.model_copy(update={"postgres_dsn": dsn})


def redacted(url: str) -> str:
    """The URL or DSN without its password, fit for a log line."""
    hidden = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", url)
    return re.sub(r"\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", r"\1***", hidden)
