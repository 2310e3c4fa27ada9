"""Lists in pages: `{"items", "next_cursor"}`, filters, sorts, and cursors.

A page begins behind the last row of the one before (keyset), so a row that stays in the list is
seen exactly once, whatever is inserted meanwhile. What a request names is looked up in the list's
own tables of filters and sorts; no text of a request ever becomes SQL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Date,
    DateTime,
    Select,
    Text,
    bindparam,
    column,
    tuple_,
)
from sqlalchemy.types import TypeEngine
from starlette.requests import Request
from starlette.responses import Response

from query_service.parameters import (
    CURSOR,
    CURSOR_CHARACTERS_MAX,
    LIMIT,
    PAGE_DEFAULT,
    WAIT_MS,
    Parameter,
    one_of,
)
from query_service.reads import Reads, checked_parameters, compiled, tagged
from query_service.rows import Shown
from tidelog.errors import Invalid, Malformed

DIGEST_BYTES = 8


class Kind(NamedTuple):
    """How values of a column stand in a statement, and what a cursor may hold for them."""

    sql: TypeEngine[Any]
    cursor: Any


KINDS: Mapping[type, Kind] = {
    str: Kind(Text(), Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~-]{1,160}(?![\s\S])")]),
    int: Kind(BigInteger(), Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]),
    date: Kind(Date(), date),
    datetime: Kind(DateTime(timezone=True), Annotated[datetime, Meta(tz=True)]),
}


class Sort(NamedTuple):
    """An order of the list: its columns with the type of each, the last one the row's key."""

    columns: Mapping[str, type]
    descending: bool = False


class Filter(NamedTuple):
    """What a parameter asks of a column."""

    parameter: Parameter
    column: str
    kind: type
    compare: Callable[[Any, Any], Any] = operator.eq


class Statement(NamedTuple):
    """Which of a list's statements: its sort, its filters, and whether it begins behind a row."""

    sort: str
    filters: frozenset[str]
    continued: bool


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list: what it shows, its filters, and its sorts, of which the first is the default.

    `spans` are pairs of filters of which the former may not lie behind the latter.
    """

    path: str
    shown: Shown
    sorts: Mapping[str, Sort]
    filters: Sequence[Filter] = ()
    spans: Sequence[tuple[str, str]] = ()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the list takes beside `wait_ms`. A list of one order only takes no `sort`."""
        names = [*self.sorts]
        sort = one_of("sort", names, "The order; `-` is descending.", default=names[0])
        filters = (each.parameter for each in self.filters)
        return (*filters, *((sort,) if len(names) > 1 else ()), LIMIT, CURSOR)


class ListQuery:
    """Answers with a page of the list."""

    def __init__(self, reads: Reads, listing: Listing) -> None:
        self._reads = reads
        self._listing = listing
        self._readers = {each.name: each.read for each in (*listing.parameters, WAIT_MS)}
        self._filters = {each.parameter.name: each for each in listing.filters}
        # One per sort and set of filters, made when it is first asked for.
        self._statements: dict[Statement, bytes] = {}
        self._cursors = {name: _cursor_decoder(sort) for name, sort in listing.sorts.items()}

    async def answer(self, request: Request) -> Response:
        """The page that the request asks for."""
        checked_parameters(request, tuple(self._readers))
        given = dict(request.query_params)
        values = {name: self._readers[name](text) for name, text in given.items()}
        filters = {name: value for name, value in values.items() if name in self._filters}
        _check_spans(self._listing.spans, filters)
        sort = values.get("sort", next(iter(self._listing.sorts)))
        limit = values.get("limit", PAGE_DEFAULT)
        after = self._after(given, sort)
        as_of = await self._reads.settle(request, self._listing.shown.projection)
        statement = self._statement(Statement(sort, frozenset(filters), after is not None))
        # One more than asked for tells whether there is a next page.
        bound = {**filters, **_behind(after or ()), "limit": limit + 1}
        found = await self._reads.database.rows(statement, bound)
        return self._page(request, given, sort, found, limit, as_of)

    def _page(
        self,
        request: Request,
        given: Mapping[str, str],
        sort: str,
        found: Sequence[Any],
        limit: int,
        as_of: str,
    ) -> Response:
        listing = self._listing
        width = len(listing.sorts[sort].columns)
        items = [listing.shown.document(row[width:]) for row in found[:limit]]
        cursor = None
        headers = {}
        if len(found) > limit:
            cursor = cursor_of(found[limit - 1][:width], self._bound_to(given, sort))
            headers["Link"] = f'<{_next(listing.path, given, cursor)}>; rel="next"'
        body = msgspec.json.encode({"items": items, "next_cursor": cursor})
        tag = hashlib.blake2b(body, digest_size=DIGEST_BYTES).hexdigest()
        return tagged(request, body, tag, as_of, headers)

    def _after(self, given: Mapping[str, str], sort: str) -> tuple[Any, ...] | None:
        """Where the page begins: behind the row with these values, or at the start."""
        cursor = given.get("cursor")
        if cursor is None:
            return None
        return read_cursor(cursor, self._bound_to(given, sort), self._cursors[sort])

    def _bound_to(self, given: Mapping[str, str], sort: str) -> bytes:
        """What a cursor holds for: this list in this order with these filters."""
        filters = sorted((name, text) for name, text in given.items() if name in self._filters)
        return msgspec.json.encode([self._listing.path, sort, filters])

    def _statement(self, which: Statement) -> bytes:
        made = self._statements.get(which)
        if made is None:
            made = self._statements[which] = compiled(self._select(which))
        return made

    def _select(self, which: Statement) -> Select[Any]:
        shown, sort = self._listing.shown, self._listing.sorts[which.sort]
        statement = shown.select(self._reads.database.schema, *sort.columns)
        for name in sorted(which.filters):
            column_name, kind, compare = self._filters[name][1:]
            value = bindparam(name, type_=KINDS[kind].sql)
            statement = statement.where(compare(column(column_name), value))
        columns: list[ColumnElement[Any]] = [column(name) for name in sort.columns]
        if which.continued:
            statement = statement.where(_beyond(sort, columns))
        ordered = [each.desc() for each in columns] if sort.descending else columns
        return statement.order_by(*ordered).limit(bindparam("limit", type_=BigInteger))


def _check_spans(spans: Sequence[tuple[str, str]], filters: Mapping[str, Any]) -> None:
    for begin, end in spans:
        if begin in filters and end in filters and filters[begin] > filters[end]:
            raise Invalid(f"{begin} is later than {end}.", f"/{begin}")


def _beyond(sort: Sort, columns: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
    """Behind the row where the page before ended."""
    values: list[BindParameter[Any]] = [
        bindparam(f"after_{n}", type_=KINDS[kind].sql)
        for n, kind in enumerate(sort.columns.values())
    ]
    here, there = tuple_(*columns), tuple_(*values)
    return here < there if sort.descending else here > there


def _behind(after: Sequence[Any]) -> dict[str, Any]:
    return {f"after_{n}": value for n, value in enumerate(after)}


def _next(path: str, given: Mapping[str, str], cursor: str) -> str:
    kept = {name: text for name, text in given.items() if name not in ("cursor", "wait_ms")}
    return f"{path}?{urlencode({**kept, 'cursor': cursor})}"


def _cursor_decoder(sort: Sort) -> msgspec.json.Decoder[tuple[Any, ...]]:
    kinds = tuple(KINDS[kind].cursor for kind in sort.columns.values())
    return msgspec.json.Decoder(types.GenericAlias(tuple, kinds))


def cursor_of(values: Sequence[Any], bound_to: bytes) -> str:
    """Where a page ended.

    The digest tells a cursor that was cut off, made up, or of another list. It guards no secret:
    whoever makes one by hand only begins a page elsewhere.
    """
    payload = msgspec.json.encode(values)
    return base64.urlsafe_b64encode(_digest(payload, bound_to) + payload).decode().rstrip("=")


def read_cursor(
    cursor: str, bound_to: bytes, decoder: msgspec.json.Decoder[tuple[Any, ...]]
) -> tuple[Any, ...]:
    """The values of the row where the page ended; Malformed where the cursor is not ours."""
    padded = cursor[:CURSOR_CHARACTERS_MAX] + "=" * (-len(cursor) % 4)
    try:
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        values = decoder.decode(raw[DIGEST_BYTES:])
    except (binascii.Error, ValueError):
        values = ()
    if not values or cursor_of(values, bound_to) != cursor:
        raise Malformed(
            "The cursor is not one of ours, or of another sort or other filters. "
            "Take it from next_cursor."
        )
    return values


def _digest(payload: bytes, bound_to: bytes) -> bytes:
    return hashlib.blake2b(bound_to + b"\n" + payload, digest_size=DIGEST_BYTES).digest()
