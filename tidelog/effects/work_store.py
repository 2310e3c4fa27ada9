"""The work in PostgreSQL, as its workers use it: taken under a lease, ended with a command.

Any number of processes may take work at once. Who holds a row's lease may write to it; when the
lease has ended somebody else takes the row, and what the late one writes is dropped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tidelog.canonical import canonical_data, command_id
from tidelog.effects.work_tables import WorkStatements
from tidelog.errors import Unavailable
from tidelog.ids import uuid7
from tidelog.message import Command, Context
from tidelog.postgres.patience import RECONNECT_TIMEOUT_S
from tidelog.postgres.saga_store import ERROR_CHARACTERS_MAX, OUTBOX_CHANNEL, bucket_of
from tidelog.postgres.trouble import reason

POOL_MAX = 8
CONNECT_TIMEOUT_S = 5.0


class Work(NamedTuple):
    """A piece of work that this process holds. `attempts` counts the one that begins."""

    id: str
    effect: str
    subject: str
    data: str
    message_id: str
    correlation_id: str
    traceparent: str
    attempts: int
    memo: str
    age_s: float
    lease: str


class Depth(NamedTuple):
    """How much work of one effect there is in one status, and how old the oldest is."""

    effect: str
    status: str
    rows: int
    oldest_s: float


class Outcome(NamedTuple):
    """A command that says what came of something, and what it follows from."""

    command: Command
    caller: str
    key: str
    causation_id: str
    correlation_id: str
    traceparent: str


# What passes without us. An InternalError is a database that is read-only for a while.
_PASSING = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)


class WorkStore:
    """Takes work and ends it. One event loop uses it. The intake has made the tables."""

    def __init__(self, contexts: Sequence[Context], *, dsn: str, schema: str) -> None:
        self._homes = {kind: context for context in contexts for kind in context.command_types}
        self._schema = schema
        self._statements = WorkStatements(schema)
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=POOL_MAX,
            timeout=CONNECT_TIMEOUT_S,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            open=False,
            kwargs={
                "autocommit": True,
                "connect_timeout": int(CONNECT_TIMEOUT_S),
                "application_name": "tidelog-effects",
                "options": "-c lock_timeout=5000 -c statement_timeout=10000",
            },
        )

    async def open(self) -> None:
        """Begin to connect, without waiting for it."""
        await self._pool.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def claim(self, effects: Sequence[str], count_max: int, lease_s: float) -> list[Work]:
        """Take work that is due; it is ours for so many seconds."""
        lease = uuid7()
        async with self._connected() as connection:
            found = await connection.execute(
                self._statements.claim, (lease, lease_s, list(effects), count_max)
            )
            return [Work._make((*row, lease)) for row in await found.fetchall()]

    async def finish(self, work: Work, command: Command | None) -> bool:
        """End it, and put what came of it into the outbox; False: it was ours no more."""
        async with self._connected() as connection, connection.transaction():
            ended = await connection.execute(self._statements.finish, (work.id, work.lease))
            if ended.rowcount and command is not None:
                await self._request(connection, [_outcome(work, command)])
        return bool(ended.rowcount)

    async def remember(self, work: Work, memo: str) -> None:
        """Write the memo down for good. Unavailable: the work is ours no more."""
        async with self._connected() as connection:
            values = (memo, work.id, work.lease)
            kept = await connection.execute(self._statements.remember, values)
        if not kept.rowcount:
            raise Unavailable(f"The lease of {work.id} has ended.")

    async def retry_later(self, work: Work, pause_s: float, error: str) -> None:
        """Put it back for another try."""
        await self._put_back(work, "waiting", error, 0, pause_s)

    async def postpone(self, work: Work, pause_s: float, error: str) -> None:
        """Put it back; nothing was tried, so the attempt does not count."""
        await self._put_back(work, "waiting", error, 1, pause_s)

    async def park(
        self, work: Work, error: str, pause_s: float | None, command: Command | None = None
    ) -> None:
        """Its tries are used up: a person must look, or it goes on slowly all the same.

        The command, if any, says so, and goes into the outbox.
        """
        await self._put_back(work, "parked", error, 0, pause_s, command)

    async def known(self, name: str, key: str) -> str | None:
        """What the Reference of this name has kept under the key; None: nothing yet."""
        async with self._connected() as connection:
            found = await connection.execute(self._statements.known, (name, key))
            row = await found.fetchone()
        return None if row is None else str(row[0])

    async def retry_parked(self, id: str = "") -> int:
        """A person wants parked work tried again: this one, or all; how many that were."""
        async with self._connected() as connection:
            found = await connection.execute(self._statements.retry, (id, id))
            return found.rowcount

    async def forget_ended(self, kept_days: int, count_max: int) -> int:
        """Delete work that ended longer ago than this, so many rows at most; how many it was."""
        async with self._connected() as connection:
            gone = await connection.execute(self._statements.forget, (kept_days, count_max))
            return gone.rowcount

    async def depth(self) -> list[Depth]:
        """How much there is to do."""
        async with self._connected() as connection:
            found = await connection.execute(self._statements.depth)
            return [Depth(*row) for row in await found.fetchall()]

    # --- what the other side tells by itself ------------------------------------------------

    @asynccontextmanager
    async def cursor(self, name: str) -> AsyncIterator[Cursor | None]:
        """The place in the other side's list, held until the end; None: another process has it."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute(self._statements.make_cursor, (name,))
            found = await connection.execute(self._statements.cursor, (name,))
            row = await found.fetchone()
            yield None if row is None else Cursor(self, connection, name, int(row[0]))

    async def advance(
        self,
        connection: AsyncConnection[Any],
        name: str,
        place: int,
        outcomes: Sequence[Outcome],
    ) -> None:
        """Put the outcomes into the outbox and move the cursor, in the caller's transaction."""
        await self._request(connection, outcomes)
        await connection.execute(self._statements.move_cursor, (place, name))

    # --- parts ------------------------------------------------------------------------------

    async def _put_back(
        self,
        work: Work,
        status: str,
        error: str,
        uncounted: int,
        pause_s: float | None,
        command: Command | None = None,
    ) -> None:
        text = error.replace("\0", "")[:ERROR_CHARACTERS_MAX]
        async with self._connected() as connection, connection.transaction():
            written = await connection.execute(
                self._statements.put_back, (status, text, uncounted, pause_s, work.id, work.lease)
            )
            if written.rowcount and command is not None:
                await self._request(connection, [_outcome(work, command)])

    async def _request(self, connection: AsyncConnection[Any], outcomes: Sequence[Outcome]) -> None:
        rows = [self._columns(outcome) for outcome in outcomes]
        if rows:
            columns = [list(each) for each in zip(*rows, strict=True)]
            await connection.execute(self._statements.request, columns)
            await connection.execute("SELECT pg_notify(%s, %s)", (OUTBOX_CHANNEL, self._schema))

    def _columns(self, outcome: Outcome) -> tuple[Any, ...]:
        command = outcome.command
        msgspec.convert(msgspec.to_builtins(command), type(command))  # within its own bounds
        context = self._homes[type(command)]
        subject = str(getattr(command, context.key))
        kind = type(command).__name__
        return (
            bucket_of(context.name, subject),
            context.name,
            subject,
            command_id(outcome.caller, context.name, subject, f"{outcome.key}/{kind}"),
            kind,
            canonical_data(command).decode(),
            outcome.causation_id,
            outcome.correlation_id,
            outcome.traceparent,
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection[Any]]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (*_PASSING, PoolTimeout) as error:
            raise Unavailable(f"PostgreSQL: {reason(error)}") from error


class Cursor:
    """A place in a list of the other side, held by this process."""

    def __init__(
        self, store: WorkStore, connection: AsyncConnection[Any], name: str, place: int
    ) -> None:
        self.place = place
        self._store = store
        self._connection = connection
        self._name = name

    async def advance(self, place: int, outcomes: Sequence[Outcome]) -> None:
        """What was told up to this place becomes commands, once."""
        assert place > self.place, "a cursor only goes on"
        await self._store.advance(self._connection, self._name, place, outcomes)


def _outcome(work: Work, command: Command) -> Outcome:
    return Outcome(
        command,
        f"effect:{work.effect}",
        work.id,
        work.message_id,
        work.correlation_id,
        work.traceparent,
    )
