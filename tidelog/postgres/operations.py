"""Outcomes of commands that travel through `<context>.commands`, and the ones that were parked.

Only these commands need PostgreSQL; a command that comes by HTTP or gRPC is answered from the log.
The tables are made when they are first needed, so that a command service starts without a database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, LiteralString, TypeVar

import msgspec
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tidelog.engine.command import Envelope, Outcome
from tidelog.errors import IdempotencyKeyReused, Unavailable
from tidelog.kafka.command_inbox import TopicCommand
from tidelog.postgres.patience import RECONNECT_TIMEOUT_S, AnsweredWithin

POOL_MAX = 4
TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 5.0
"""What somebody waits for. Shorter than a command may take, so that they hear why."""

BATCH_TIMEOUT_S = 60.0
KEPT_HOURS = 24

T = TypeVar("T")

DocumentOf = Callable[[str, Envelope, Outcome], dict[str, Any]]
"""How an outcome reads to the client: `{"status": …, "result" or "problem": …}`."""

_TABLES: LiteralString = """
SELECT pg_advisory_xact_lock(hashtextextended('tidelog-operations', 0));
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.operations (
    id text PRIMARY KEY,
    context text NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'done', 'refused')),
    document jsonb NOT NULL DEFAULT '{{}}',
    command_hash text,
    caller text,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
ALTER TABLE {schema}.operations ADD COLUMN IF NOT EXISTS command_hash text;
ALTER TABLE {schema}.operations ADD COLUMN IF NOT EXISTS caller text;
CREATE INDEX IF NOT EXISTS operations_started_at ON {schema}.operations (started_at);
CREATE TABLE IF NOT EXISTS {schema}.parked_commands (
    context text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (context, partition, "offset")
);
"""

_START: LiteralString = """
INSERT INTO {schema}.operations AS known (id, context, status, command_hash, caller)
VALUES (%s, %s, 'running', %s, %s)
ON CONFLICT (id) DO UPDATE SET
    caller = coalesce(known.caller, excluded.caller),
    status = CASE WHEN known.status = 'refused' THEN 'running' ELSE known.status END,
    document = CASE WHEN known.status = 'refused' THEN '{{}}' ELSE known.document END,
    command_hash = CASE WHEN known.status = 'refused' THEN excluded.command_hash
        ELSE coalesce(known.command_hash, excluded.command_hash) END
RETURNING command_hash
"""

_FINISH: LiteralString = """
INSERT INTO {schema}.operations (id, context, status, document, finished_at)
VALUES (%s, %s, %s, %s, now())
ON CONFLICT (id) DO UPDATE SET status = excluded.status, document = excluded.document,
    finished_at = excluded.finished_at
WHERE operations.status <> 'done'
"""

_PARK: LiteralString = """
INSERT INTO {schema}.parked_commands (context, partition, "offset", reason, key, value, headers)
VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""

_GET: LiteralString = """
SELECT status, document FROM {schema}.operations
WHERE id = %(id)s AND started_at > now() - make_interval(hours => %(hours)s)
    AND (%(only_of)s::text IS NULL OR caller = %(only_of)s::text)
"""

_FORGET: LiteralString = """
DELETE FROM {schema}.operations WHERE started_at < now() - make_interval(hours => %s)
"""


class PostgresOperations:
    """The operations of `GET /operations/{id}` and the outcome store of the command topics."""

    def __init__(self, dsn: str, schema: str, document_of: DocumentOf) -> None:
        self._schema = sql.Identifier(schema)
        self._document_of = document_of
        self._ready = False
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=POOL_MAX,
            timeout=TIMEOUT_S,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            open=False,
            kwargs={"connect_timeout": int(TIMEOUT_S)},
        )

    async def open(self) -> None:
        """Begin; no connection is needed yet."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Release the connections."""
        await self._pool.close()

    async def start(self, operation_id: str, context: str, command_hash: str, caller: str) -> None:
        """Note that the operation runs; one that is done stays so, one refused is decided again.

        It is the caller's: the id follows from the caller's name, so nobody else can start it.
        """

        async def work(connection: AsyncConnection[Any]) -> str:
            values = (operation_id, context, command_hash, caller)
            cursor = await connection.execute(self._sql(_START), values)
            row = await cursor.fetchone()
            assert row is not None, "the statement returns the row in any case"
            return str(row[0])

        if await self._transact(work, REQUEST_TIMEOUT_S) != command_hash:
            raise IdempotencyKeyReused

    async def get(self, operation_id: str, only_of: str | None = None) -> dict[str, Any] | None:
        """The operation's document, for 24 hours after it began; None where it is not `only_of`'s.

        What sagas and effects have sent is nobody's.
        """
        values = {"id": operation_id, "hours": KEPT_HOURS, "only_of": only_of}

        async def work(connection: AsyncConnection[Any]) -> dict[str, Any] | None:
            cursor = await connection.execute(self._sql(_GET), values)
            row = await cursor.fetchone()
            return {"id": operation_id, "status": row[0], **row[1]} if row else None

        return await self._transact(work, REQUEST_TIMEOUT_S)

    async def finish(self, context: str, partition: int, done: Sequence[TopicCommand]) -> None:
        """Keep outcomes and parked records, all or none."""

        async def work(connection: AsyncConnection[Any]) -> None:
            outcomes = [self._outcome(context, command) for command in done if command.outcome]
            parked = [_parked(context, partition, command) for command in done if command.fault]
            async with connection.cursor() as cursor:
                if outcomes:
                    await cursor.executemany(self._sql(_FINISH), outcomes)
                if parked:
                    await cursor.executemany(self._sql(_PARK), parked)

        await self._transact(work)

    async def forget_old(self) -> None:
        """Delete operations that are past their 24 hours."""

        async def work(connection: AsyncConnection[Any]) -> None:
            await connection.execute(self._sql(_FORGET), (KEPT_HOURS,))

        await self._transact(work)

    def _outcome(self, context: str, command: TopicCommand) -> tuple[Any, ...]:
        assert command.envelope is not None and command.outcome is not None
        document = self._document_of(context, command.envelope, command.outcome)
        status = document.pop("status")
        return (command.envelope.command_id, context, status, Jsonb(document))

    async def _transact(
        self,
        work: Callable[[AsyncConnection[Any]], Awaitable[T]],
        timeout_s: float = BATCH_TIMEOUT_S,
    ) -> T:
        try:
            async with self._pool.connection() as connection:
                with AnsweredWithin(connection, timeout_s):
                    if not self._ready:
                        await connection.execute(self._sql(_TABLES))
                    result = await work(connection)
                    await connection.commit()
            self._ready = True
            return result
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise Unavailable("PostgreSQL does not answer; operations need it.") from error

    def _sql(self, statement: LiteralString) -> sql.Composed:
        return sql.SQL(statement).format(schema=self._schema)


def _parked(context: str, partition: int, command: TopicCommand) -> tuple[Any, ...]:
    record = command.record
    headers = [
        [
            name,
            value.decode("utf-8", "backslashreplace").replace("\0", "\\x00") if value else None,
        ]
        for name, value in record.headers
    ]
    return (
        context,
        partition,
        record.offset,
        command.fault,
        record.key,
        record.value,
        Jsonb(msgspec.to_builtins(headers)),
    )
