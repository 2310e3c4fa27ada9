"""The tables of the sagas: instances, what waits for them, and the outbox.

Made idempotently in the caller's transaction, under the lock of the migrations.
"""

from __future__ import annotations

from typing import LiteralString

TABLES: tuple[LiteralString, ...] = (
    """
CREATE TABLE IF NOT EXISTS {schema}.saga_instances (
    saga text NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- Null: the key is locked or its events wait, but no instance has begun.
    phase text,
    stuck text NOT NULL DEFAULT '',
    next_due timestamptz,
    correlation_id text,
    started_at timestamptz,
    updated_at timestamptz,
    ended_at timestamptz,
    -- json, not jsonb: it comes back as it was written, the order of its keys too.
    instance json,
    PRIMARY KEY (saga, key)
) WITH (fillfactor = 70)
""",
    """
CREATE INDEX IF NOT EXISTS saga_instances_due ON {schema}.saga_instances (next_due)
    WHERE next_due IS NOT NULL
""",
    """
CREATE INDEX IF NOT EXISTS saga_instances_listed
    ON {schema}.saga_instances (started_at DESC, saga, key) WHERE phase IS NOT NULL
""",
    """
CREATE INDEX IF NOT EXISTS saga_instances_open
    ON {schema}.saga_instances (phase, started_at) WHERE ended_at IS NULL
""",
    """
CREATE INDEX IF NOT EXISTS saga_instances_stuck ON {schema}.saga_instances (saga)
    WHERE stuck <> ''
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.saga_held (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga text NOT NULL,
    key text COLLATE "C" NOT NULL,
    event_type text NOT NULL,
    data jsonb NOT NULL,
    message_id text NOT NULL,
    causation_id text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    position text NOT NULL,
    recorded_at timestamptz NOT NULL
)
""",
    """
CREATE INDEX IF NOT EXISTS saga_held_key ON {schema}.saga_held (saga, key, id)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.saga_parked (
    saga text NOT NULL,
    key text COLLATE "C" NOT NULL,
    position text NOT NULL,
    event_type text NOT NULL,
    attempts int NOT NULL,
    error_type text NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz,
    PRIMARY KEY (saga, key)
)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.saga_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Who relays it: commands to one aggregate stay in order.
    bucket int NOT NULL,
    context text NOT NULL,
    subject text NOT NULL,
    command_id text NOT NULL,
    command_type text NOT NULL,
    data jsonb NOT NULL,
    causation_id text NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)
""",
    """
CREATE INDEX IF NOT EXISTS saga_outbox_bucket ON {schema}.saga_outbox (bucket, id)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.saga_outbox_parked (
    -- The aggregate whose next command cannot be sent; what is behind it waits in the outbox.
    context text NOT NULL,
    subject text NOT NULL,
    outbox_id bigint NOT NULL,
    command_type text NOT NULL,
    attempts int NOT NULL,
    error_type text NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    attempted_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL,
    PRIMARY KEY (context, subject)
)
""",
    """
CREATE TABLE IF NOT EXISTS {schema}.saga_commands (
    command_id text PRIMARY KEY,
    saga text NOT NULL,
    key text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
)
""",
)

BUCKETS = 8
"""How many parts the outbox has; each is relayed by one process at a time. Never changed."""
