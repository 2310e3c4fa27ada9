"""What every query does alike: ids, parameters, tokens, entity tags, and the database.

A read never changes anything and never waits without a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    table,
)
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from starlette.requests import Request
from starlette.responses import Response

from query_service.parameters import WAIT_MS, WAIT_MS_DEFAULT
from tidelog.engine.reading import Partition
from tidelog.errors import Blocked, Invalid, Malformed, Unavailable
from tidelog.http.headers import has_already
from tidelog.message import ID_PATTERN
from tidelog.position import parse_token
from tidelog.postgres.listener import PositionListener, as_token
from tidelog.postgres.parked_keys import read_after
from tidelog.postgres.patience import RECONNECT_TIMEOUT_S, AnsweredWithin
from tidelog.postgres.tables import Generation

POOL_TIMEOUT_S = 2.0
STATEMENT_TIMEOUT_MS = 10_000
ANSWER_TIMEOUT_S = STATEMENT_TIMEOUT_MS / 1_000 + 1.0
"""After this a database that keeps no time of its own is taken to hang."""

PROBE_TIMEOUT_S = 0.8
"""Shorter than a readiness check may take."""

_ID = re.compile(ID_PATTERN)
_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class Database:
    """Read-only access to the read models."""

    def __init__(self, *, dsn: str, schema: str, connections_max: int) -> None:
        self.schema = schema
        self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections_max,
            open=False,
            timeout=POOL_TIMEOUT_S,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            # More waiting requests than this are refused at once.
            max_waiting=connections_max * 64,
            kwargs={
                # One statement is one snapshot: no BEGIN, no COMMIT, one round trip.
                "autocommit": True,
                "prepare_threshold": 0,
                "application_name": "tidelog-queries",
                "options": "-c default_transaction_read_only=on -c timezone=UTC "
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
            },
        )

    async def open(self) -> None:
        """Begin to connect. The pool goes on trying where PostgreSQL is not there yet."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def rows(
        self,
        statement: bytes,
        values: Mapping[str, Any],
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> list[Any]:
        """The rows that the statement finds; Unavailable where the database does not answer."""
        try:
            async with self._pool.connection() as connection:
                with AnsweredWithin(connection, timeout_s):
                    return await _fetched(connection, statement, values)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise Unavailable(
                "The read model is not there yet in this form: no projector of this version has "
                "built it. Try again soon."
            ) from error
        except (psycopg.OperationalError, psycopg.InternalError, PoolTimeout) as error:
            raise Unavailable("The read models cannot be reached now.") from error

    async def problem(self) -> str | None:
        """Why the database cannot be used, or None."""
        try:
            await self.rows(b"SELECT 1", {}, timeout_s=PROBE_TIMEOUT_S)
        except Unavailable as error:
            return str(error)
        return None


async def _fetched(
    connection: AsyncConnection[Any], statement: bytes, values: Mapping[str, Any]
) -> list[Any]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(statement, values)
    return await cursor.fetchall()


def compiled(statement: Select[Any]) -> bytes:
    """The statement as psycopg takes it, with its parameters by name."""
    return str(statement.compile(dialect=_DIALECT)).encode()


class Reads:
    """What a query needs beside its own statement."""

    def __init__(
        self,
        *,
        database: Database,
        listener: PositionListener,
        contexts: Iterable[str],
        partitions: int,
    ) -> None:
        self.database = database
        self.listener = listener
        self._contexts = frozenset(contexts)
        self._partitions = partitions
        self._parked = compiled(_parked(database.schema))

    async def settle(self, request: Request, projection: str, key: str | None = None) -> str:
        """Wait for the request's token, then say how far the read model is at least.

        Raises Blocked where the row of this key stands before what the token asks for, and will
        stay there until a person or a retry has helped.

        The answer is what `X-As-Of` carries. It is taken before the rows are read, so the rows are
        never older than it says.
        """
        request.state.settled = (self.listener, self.listener.breaks)
        asked = request.query_params.get(WAIT_MS.name) if request.scope["query_string"] else None
        wait_ms = WAIT_MS_DEFAULT if asked is None else WAIT_MS.read(asked)
        tokens = request.headers.getlist("consistency-token")
        if tokens:
            keys = () if key is None else (key,)
            await self.reach(projection, ",".join(tokens), wait_ms, keys)
        return self.as_of(projection)

    async def reach(self, projection: str, token: str, wait_ms: int, keys: Sequence[str]) -> None:
        """Wait until the read model has reached the token.

        Raises NotYetVisible where it has not in time, and Blocked where the row of one of these
        keys stands before it.
        """
        wanted = self._wanted(token)
        await self.listener.wait(projection, wanted, wait_ms / 1_000)
        generation = self.listener.parked(projection)
        if generation is not None and keys:
            await self._check_parked(generation, keys, wanted)

    def as_of(self, projection: str) -> str:
        """How far the read model is at least; empty where none serves yet, or nobody can say."""
        return as_token(self.listener.reached(projection))

    async def _check_parked(
        self, generation: Generation, keys: Sequence[str], wanted: Mapping[Partition, int]
    ) -> None:
        """Raise Blocked where one of the rows is parked before what is wanted."""
        values = {**generation._asdict(), "keys": [*keys]}
        found = await self.database.rows(self._parked, values)
        for event_type, context, partition, sequence, after in found:
            held = read_after(msgspec.json.decode(after))
            if any(at in held and sequence > held[at].sequence for at, sequence in wanted.items()):
                raise Blocked(
                    f"{event_type} at {context}:{partition}:{sequence} could not be folded in, "
                    "and the later events of its row wait behind it."
                )

    def _wanted(self, token: str) -> dict[Partition, int]:
        wanted: dict[Partition, int] = {}
        for position in parse_token(token.strip(" \t")):
            known = position.partition < self._partitions
            if position.context not in self._contexts or not known:
                raise Malformed(
                    "The consistency token names a context or a partition that is not here."
                )
            at = Partition(position.context, position.partition)
            wanted[at] = max(wanted.get(at, 0), position.sequence)
        return wanted


def _parked(schema: str) -> Select[Any]:
    """What parked keys wait behind, and up to where their rows hold their events."""
    names = ("event_type", "context", "partition", "sequence", "after")
    keys = table("parked_keys", *map(column, (*names, *_GENERATION, "key")), schema=schema)
    shown = (cast(keys.c[name], Text) if name == "after" else keys.c[name] for name in names)
    kinds = {"version": BigInteger, "generation": BigInteger}
    return select(*shown).where(
        *(keys.c[name] == bindparam(name, type_=kinds.get(name, Text)()) for name in _GENERATION),
        keys.c.key == func.any(bindparam("keys", type_=ARRAY(Text))),
    )


_GENERATION = ("projection", "version", "generation")


def checked_parameters(request: Request, known: Sequence[str]) -> None:
    """Raise Malformed where the query string holds what this query does not take."""
    if not request.scope["query_string"]:
        return
    names = [name for name, _ in request.query_params.multi_items()]
    if not set(names) <= set(known):
        raise Malformed(f"This query takes {', '.join(known)} and nothing else.")
    if len(set(names)) != len(names):
        raise Malformed("A query parameter may be given once only.")


def checked_id(request: Request, name: str) -> str:
    """The id in the path; Invalid where it breaks the form of ids."""
    value = request.path_params[name]
    if not _ID.match(value):
        raise Invalid("An id is 1 to 128 of A-Z a-z 0-9 . _ ~ - and neither . nor ..", f"/{name}")
    return str(value)


def document(request: Request, body: Mapping[str, Any], version: int, as_of: str) -> Response:
    """One document with its entity tag; 304 where the caller has it already."""
    return tagged(request, msgspec.json.encode(body), str(version), as_of)


def tagged(
    request: Request, body: bytes, tag: str, as_of: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The body with this entity tag; 304 where the caller has it already."""
    _check_settled(request)
    every = {"ETag": f'"{tag}"', "X-As-Of": as_of, "Cache-Control": "private, no-cache"}
    if headers:
        every.update(headers)
    if has_already(",".join(request.headers.getlist("if-none-match")), tag):
        return Response(status_code=304, headers=every)
    return Response(body, headers=every, media_type="application/json")


def _check_settled(request: Request) -> None:
    """Raise Unavailable where the database broke off between the promise and the rows.

    It may have come back without its last commits: then the rows are older than `X-As-Of` says.
    """
    settled = getattr(request.state, "settled", None)
    if settled is not None and settled[0].breaks != settled[1]:
        raise Unavailable("The database has come back meanwhile. Ask again.")
