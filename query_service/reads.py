"""What every query does alike: ids, parameters, tokens, entity tags, and the database.

A read never changes anything and never waits without a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from starlette.requests import Request
from starlette.responses import Response

from tidelog.engine.folding import Partition
from tidelog.errors import Invalid, Malformed, Unavailable
from tidelog.message import ID_PATTERN
from tidelog.position import parse_token
from tidelog.postgres.listener import PositionListener, as_token

WAIT_MS_DEFAULT = 2_000
WAIT_MS_MAX = 10_000
POOL_TIMEOUT_S = 2.0

_ID = re.compile(ID_PATTERN)
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_ENTITY_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
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
            # More waiting requests than this are refused at once.
            max_waiting=connections_max * 64,
            kwargs={
                # One statement is one snapshot: no BEGIN, no COMMIT, one round trip.
                "autocommit": True,
                "prepare_threshold": 0,
                "application_name": "tidelog-queries",
                "options": "-c default_transaction_read_only=on -c timezone=UTC "
                "-c statement_timeout=10000",
            },
        )

    async def open(self) -> None:
        """Begin to connect. The pool goes on trying where PostgreSQL is not there yet."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def rows(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """The rows that the statement finds; Unavailable where the database does not answer."""
        try:
            async with self._pool.connection() as connection:
                cursor = connection.cursor(binary=True)
                await cursor.execute(statement.encode(), values)
                return list(await cursor.fetchall())
        except psycopg.errors.UndefinedTable as error:
            raise Unavailable(
                "The read model is not there yet: no projector has run. Try again soon."
            ) from error
        except (psycopg.OperationalError, psycopg.InternalError, PoolTimeout) as error:
            raise Unavailable("The read models cannot be reached now.") from error

    async def problem(self) -> str | None:
        """Why the database cannot be used, or None."""
        try:
            await self.rows("SELECT 1", {})
        except Unavailable as error:
            return str(error)
        return None


def compiled(statement: Select[Any]) -> str:
    """The statement as psycopg takes it, with its parameters by name."""
    return str(statement.compile(dialect=_DIALECT))


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

    async def settle(self, request: Request, projection: str) -> str:
        """Wait for the request's token, then say how far the read model is at least.

        The answer is what `X-As-Of` carries. It is taken before the rows are read, so the rows are
        never older than it says.
        """
        wait_ms = _whole_number(
            request, "wait_ms", default=WAIT_MS_DEFAULT, least=0, most=WAIT_MS_MAX
        )
        tokens = request.headers.getlist("consistency-token")
        if tokens:
            wanted = self._wanted(",".join(tokens))
            await self.listener.wait(projection, wanted, wait_ms / 1_000)
        return as_token(self.listener.reached(projection))

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


def checked_parameters(request: Request, known: Sequence[str]) -> None:
    """Raise Malformed where the query string holds what this query does not take."""
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


def page_size(request: Request, *, default: int, most: int) -> int:
    """How many items the caller wants."""
    return _whole_number(request, "limit", default=default, least=1, most=most)


def document(request: Request, body: Mapping[str, Any], version: int, as_of: str) -> Response:
    """One document with its entity tag; 304 where the caller has it already."""
    tag = f'"{version}"'
    headers = {"ETag": tag, "X-As-Of": as_of, "Cache-Control": "private, no-cache"}
    if _has_already(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")


def _has_already(request: Request, tag: str) -> bool:
    """Whether If-None-Match names the tag. The comparison is weak (RFC 9110, 13.1.2)."""
    raw = ",".join(request.headers.getlist("if-none-match")).strip(" \t")
    if not raw:
        return False
    if raw == "*":
        return True
    found = [_ENTITY_TAG.fullmatch(part.strip(" \t")) for part in raw.split(",")]
    if None in found:
        raise Malformed('If-None-Match takes entity tags in quotes, such as "3", or *.')
    return tag.strip('"') in {match[1] for match in found if match}


def _whole_number(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise Invalid(f"{name} takes a whole number from {least} to {most}.", f"/{name}")
    return int(text)
