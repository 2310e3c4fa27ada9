"""`GET /stock/{sku}` and `GET /stock`: what is on the shelf, and how much of it can be ordered."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from zlib import crc32

import msgspec
from sqlalchemy import BigInteger, Select, Text, bindparam, column, select, table
from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import (
    Reads,
    checked_id,
    checked_parameters,
    compiled,
    document,
    page_size,
)
from tidelog.errors import Malformed, Unknown
from tidelog.message import ID_PATTERN

PROJECTION = "stock_level"
PAGE_DEFAULT = 50
PAGE_MAX = 200
CURSOR_CHARACTERS_MAX = 200

_ID = re.compile(ID_PATTERN)


class Stock:
    """The queries over stock."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._by_sku = compiled(_by_sku(reads.database.schema))
        self._page = compiled(_page(reads.database.schema))

    async def one(self, request: Request) -> Response:
        """The stock of one SKU, or 404."""
        checked_parameters(request, ("wait_ms",))
        sku = checked_id(request, "sku")
        as_of = await self._reads.settle(request, PROJECTION)
        found = await self._reads.database.rows(self._by_sku, {"sku": sku})
        if not found:
            raise Unknown("There is no stock of this SKU, and there never was.")
        body = _document(found[0])
        return document(request, body, body["version"], as_of)

    async def list(self, request: Request) -> Response:
        """A page of all SKUs in byte order, and where the next one begins."""
        checked_parameters(request, ("wait_ms", "limit", "cursor"))
        limit = page_size(request, default=PAGE_DEFAULT, most=PAGE_MAX)
        after = _read_cursor(request.query_params.get("cursor"))
        as_of = await self._reads.settle(request, PROJECTION)
        # One more than asked for tells whether there is a next page.
        found = await self._reads.database.rows(self._page, {"after": after, "limit": limit + 1})
        items = [_document(row) for row in found[:limit]]
        cursor = _cursor(items[-1]["sku"]) if len(found) > limit else None
        headers = {"X-As-Of": as_of, "Cache-Control": "private, no-cache"}
        if cursor is not None:
            headers["Link"] = f'</stock?limit={limit}&cursor={cursor}>; rel="next"'
        return Response(
            msgspec.json.encode({"items": items, "next_cursor": cursor}),
            headers=headers,
            media_type="application/json",
        )


_COLUMNS = ("sku", "on_hand", "reserved", "version", "position")


def _by_sku(schema: str) -> Select[Any]:
    stock = table(PROJECTION, *map(column, _COLUMNS), schema=schema)
    return select(*stock.c).where(stock.c.sku == bindparam("sku", type_=Text))


def _page(schema: str) -> Select[Any]:
    stock = table(PROJECTION, *map(column, _COLUMNS), schema=schema)
    return (
        select(*stock.c)
        .where(stock.c.sku > bindparam("after", type_=Text))
        .order_by(stock.c.sku)
        .limit(bindparam("limit", type_=BigInteger))
    )


def _document(row: tuple[Any, ...]) -> dict[str, Any]:
    sku, on_hand, reserved, version, position = row
    return {
        "sku": sku,
        "on_hand": on_hand,
        "reserved": reserved,
        "available": on_hand - reserved,
        "version": version,
        "position": position,
    }


def _cursor(sku: str) -> str:
    """Where a page ended. The checksum tells one that was cut off or made up from ours."""
    checked = crc32(sku.encode()).to_bytes(4, "big") + sku.encode()
    return base64.urlsafe_b64encode(checked).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        padded = cursor[:CURSOR_CHARACTERS_MAX] + "=" * (-len(cursor) % 4)
        sku = base64.b64decode(padded, altchars=b"-_", validate=True)[4:].decode()
    except (binascii.Error, ValueError):
        sku = ""
    if not _ID.match(sku) or _cursor(sku) != cursor:
        raise Malformed("The cursor is not one of ours. Take it from next_cursor.")
    return sku
