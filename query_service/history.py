"""`GET /orders/{id}/history` and its like: what happened to one aggregate, event by event."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.indexed import PAGE_BYTES_MAX, EventIndex, Page, settled
from query_service.parameters import CURSOR, LIMIT, PAGE_DEFAULT
from query_service.reads import Reads, checked_id, checked_parameters, tagged
from tidelog.engine.reading import Partition
from tidelog.errors import Malformed, Unknown
from tidelog.partitioner import partition_of

DIGEST_BYTES = 8
PARAMETERS = (LIMIT, CURSOR)

_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class History:
    """The history of the aggregates of one context. Its cursor is the version it got to."""

    def __init__(
        self, reads: Reads, index: EventIndex, context: str, key: str, partitions: int
    ) -> None:
        self._reads = reads
        self._index = index
        self.context = context
        self.key = key
        self._partitions = partitions
        self._statement = index.statement(
            "SELECT 0 AS place, * FROM {index} WHERE context = %(context)s "
            "AND aggregate_id = %(id)s AND version > %(after)s ORDER BY version LIMIT %(limit)s"
        )

    async def answer(self, request: Request) -> Response:
        """The events of one aggregate in order, in pages."""
        checked_parameters(request, ("limit", "cursor", "wait_ms"))
        aggregate_id = checked_id(request, self.key)
        asked = request.query_params.get("limit")
        limit = PAGE_DEFAULT if asked is None else LIMIT.read(asked)
        after = _after(request.query_params.get("cursor"))
        as_of = await settled(self._reads, request, [self.partition(aggregate_id)])
        page = await self.page(aggregate_id, after, limit)
        if not page.events and not after:
            raise Unknown("Nothing has happened under this id.")
        items = await self._index.items(page.events)
        cursor = str(page.events[-1].version) if page.more else None
        link = f"{request.url.path}?limit={limit}&cursor={cursor}" if cursor else None
        return listed(request, items, cursor, link, as_of)

    def partition(self, aggregate_id: str) -> Partition:
        """Where the aggregate has its events."""
        return Partition(self.context, partition_of(aggregate_id, self._partitions))

    async def page(self, aggregate_id: str, after: int, limit: int) -> Page:
        """The events behind this version."""
        values = {"context": self.context, "id": aggregate_id, "after": after}
        return await self._index.page(self._statement, values, limit, PAGE_BYTES_MAX)


def listed(
    request: Request, items: list[dict[str, Any]], cursor: str | None, link: str | None, as_of: str
) -> Response:
    """A page of events with a tag of its content."""
    body = msgspec.json.encode({"items": items, "next_cursor": cursor})
    tag = hashlib.blake2b(body, digest_size=DIGEST_BYTES).hexdigest()
    headers = {"Link": f'<{link}>; rel="next"'} if link else None
    return tagged(request, body, tag, as_of, headers)


def _after(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not _VERSION.fullmatch(cursor):
        raise Malformed("The cursor is not one of ours. Take it from next_cursor.")
    return int(cursor)
