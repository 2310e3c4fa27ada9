"""`GET /parked`: everything that waits for a retry or a person, the oldest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, column, select, text
from starlette.requests import Request
from starlette.responses import Response

from query_service.lists import Filter, Listing, ListQuery, Sort
from query_service.parameters import Parameter, identifier, one_of
from query_service.reads import Reads
from query_service.rows import Shown
from tidelog.postgres.parked_list import KINDS, NAMES, TABLES, known_tables, parked_select

PATH = "/parked"

KIND = one_of("kind", KINDS, "What is parked; everything where it is left out.")
PROJECTION = identifier("projection", "The name of a projection.")

FILTERS = (Filter(KIND, "kind", str), Filter(PROJECTION, "projection", str))
SORTS: Mapping[str, Sort] = {"parked_at": Sort({"parked_at": datetime, "id": str})}


class Parked:
    """The query over what is parked. It waits for no token: what it shows is no read model."""

    def __init__(self, reads: Reads) -> None:
        self._reads = Present(
            database=reads.database, listener=reads.listener, contexts=(), partitions=0
        )
        self._lists: dict[frozenset[str], ListQuery] = {}
        self._tables: frozenset[str] = frozenset()

    async def list(self, request: Request) -> Response:
        """What is parked: rows of read models, records that are not ours, commands."""
        if len(self._tables) < len(TABLES):
            statement = known_tables(self._reads.database.schema).encode()
            found = await self._reads.database.rows(statement, {})
            self._tables = frozenset(name for (name,) in found)
        query = self._lists.get(self._tables)
        if query is None:
            query = self._lists[self._tables] = ListQuery(self._reads, listing(self._tables))
        return await query.answer(request)


class Present(Reads):
    """Reads what is there now."""

    async def settle(self, request: Request, projection: str, key: str | None = None) -> str:
        """Nothing to wait for."""
        del request, projection, key
        return ""


def listing(tables: frozenset[str]) -> Listing:
    """The list over these tables."""
    fields: dict[str, Any] = {name: name for name in NAMES}
    shown = ParkedRows(projection="parked", key="id", fields=fields, tables=tables)
    return Listing(path=PATH, shown=shown, sorts=SORTS, filters=FILTERS)


@dataclass(frozen=True, kw_only=True)
class ParkedRows(Shown):
    """The rows of all tables of parked things that are there."""

    tables: frozenset[str]

    def select(self, schema: str, *before: str) -> Select[Any]:
        """The fields of all rows, behind the columns that are named here."""
        kept: list[ColumnElement[Any]] = [column(name) for name in before]
        rows = (
            text(parked_select(schema, self.tables)).columns(*map(column, NAMES)).subquery("parked")
        )
        return select(*kept, *map(column, NAMES)).select_from(rows)


PARAMETERS: tuple[Parameter, ...] = listing(frozenset()).parameters
