"""One row of a read model as a document: `GET /orders/{id}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Raw
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Label,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    table,
)
from starlette.requests import Request
from starlette.responses import Response

from query_service.lookups import Lookup
from query_service.reads import Reads, checked_id, checked_parameters, compiled, document
from tidelog.errors import Unknown


class Nested(str):
    """A column of JSON, which goes out as it is stored."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What of a read model is shown: the names of the document, and what stands behind each."""

    projection: str
    key: str
    fields: Mapping[str, str | Nested | ColumnElement[Any]]

    def select(self, schema: str, *before: str) -> Select[Any]:
        """The fields of all rows, behind the columns that are named here."""
        kept: list[ColumnElement[Any]] = [column(name) for name in before]
        return select(*kept, *map(_labelled, self.fields.items())).select_from(
            table(self.projection, schema=schema)
        )

    def document(self, values: Sequence[Any]) -> dict[str, Any]:
        """The document with these values of its fields."""
        body = dict(zip(self.fields, values, strict=True))
        for name, field in self.fields.items():
            if isinstance(field, Nested):
                body[name] = Raw(body[name])
        return body


class RowQuery:
    """Answers with the row that the path names, or with 404."""

    def __init__(self, reads: Reads, shown: Shown, *, unknown: str) -> None:
        self._reads = reads
        self._shown = shown
        self._unknown = unknown
        self._statement = compiled(
            shown.select(reads.database.schema, shown.key, "version").where(
                column(shown.key) == func.any(bindparam("keys", type_=ARRAY(Text)))
            )
        )
        self._lookup = Lookup(self._find)

    async def answer(self, request: Request) -> Response:
        """The document, with the row's version as its entity tag."""
        checked_parameters(request, ("wait_ms",))
        key = checked_id(request, self._shown.key)
        as_of = await self._reads.settle(request, self._shown.projection, key)
        found = await self._lookup.row(key)
        if found is None:
            raise Unknown(self._unknown)
        _, version, *values = found
        return document(request, self._shown.document(values), version, as_of)

    async def _find(self, keys: list[str]) -> list[Any]:
        return await self._reads.database.rows(self._statement, {"keys": keys})


def _labelled(named: tuple[str, str | Nested | ColumnElement[Any]]) -> Label[Any]:
    name, field = named
    if isinstance(field, Nested):
        return cast(column(field), Text).label(name)
    return (column(field) if isinstance(field, str) else field).label(name)
