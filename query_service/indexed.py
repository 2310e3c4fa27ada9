"""Events as the event index holds them, read in bounded pages and decoded.

A page is bounded in events and in bytes: an event whose bytes would pass the bound comes without
them, and the page ends before it. Bytes that cannot be decoded are shown as such; they hold up
nobody. Only a registry that cannot be asked makes an answer impossible for now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import sql
from starlette.requests import Request

from query_service.reads import Database, Reads
from tidelog.engine.ports import MessageCodec
from tidelog.engine.reading import Partition
from tidelog.errors import CodecError
from tidelog.message import Message
from tidelog.position import Position
from tidelog.postgres.listener import as_token

PROJECTION = "event_index"
PAGE_BYTES_MAX = 8 * 1024 * 1024
SCHEMAS_MAX = 10_000
"""How many schemas are known to be readable without asking the registry."""

_PREFIX_BYTES = 5


class Indexed(NamedTuple):
    """One row of the event index. Without its bytes it lies beyond the bound of its page.

    `place` tells for which part of the query it was found.
    """

    context: str
    partition: int
    sequence: int
    offset: int
    aggregate_id: str
    version: int
    type: str
    time: datetime
    correlation_id: str
    causation_id: str
    message_id: str
    place: int
    value: bytes | None

    @property
    def at(self) -> Partition:
        """The partition that it stands in."""
        return Partition(self.context, self.partition)

    @property
    def position(self) -> str:
        """Where it stands in the log: `orders:3:1042`."""
        return str(Position(self.context, self.partition, self.sequence))


class Undecodable(NamedTuple):
    """Bytes that are no message of ours, and why."""

    reason: str


class Page(NamedTuple):
    """Events in order, and whether there are more."""

    events: list[Indexed]
    more: bool


class EventIndex:
    """Reads the event index. It belongs to one event loop."""

    def __init__(self, database: Database, codec: MessageCodec) -> None:
        self._database = database
        self._codec = codec
        self._known: set[bytes] = set()

    def statement(self, text: LiteralString) -> bytes:
        """A bounded statement.

        `text` finds rows of the index (as `{index}`) with a `place`: the order is by place, then by
        sequence. Parameters are `limit` and `bytes` and what `text` names.
        """
        index = sql.Identifier(self._database.schema, PROJECTION)
        inner = sql.SQL(text).format(index=index)
        return sql.SQL(_BOUNDED).format(inner=inner).as_bytes(None)

    async def page(
        self, statement: bytes, values: Mapping[str, Any], limit: int, bytes_max: int
    ) -> Page:
        """At most `limit` events and about `bytes_max` bytes; Unavailable without a database."""
        # One more than asked for tells whether there is a next page.
        found = await self._database.rows(
            statement, {**values, "limit": limit + 1, "bytes": bytes_max}
        )
        rows = [Indexed(*row) for row in found]
        whole = next((n for n, row in enumerate(rows) if row.value is None), len(rows))
        kept = min(whole, limit)
        return Page(rows[:kept], kept < len(rows))

    async def rows(self, statement: bytes, values: Mapping[str, Any]) -> list[Indexed]:
        """Every row that a bounded statement finds."""
        return [Indexed(*row) for row in await self._database.rows(statement, values)]

    async def decoded(self, events: Sequence[Indexed]) -> list[Message | Undecodable]:
        """The messages. Unavailable where the registry must be asked and does not answer."""
        values = [event.value or b"" for event in events]
        prefixes = {value[:_PREFIX_BYTES] for value in values}
        if prefixes <= self._known:
            return self._decode(values)
        # Asking the registry may take a while: the others are served meanwhile.
        messages = await asyncio.to_thread(self._decode, values)
        self._learn(values, messages)
        return messages

    async def items(self, events: Sequence[Indexed]) -> list[dict[str, Any]]:
        """The events as they are shown."""
        messages = await self.decoded(events)
        return [item(event, message) for event, message in zip(events, messages, strict=True)]

    def _decode(self, values: Sequence[bytes]) -> list[Message | Undecodable]:
        return [self._decoded(value) for value in values]

    def _decoded(self, value: bytes) -> Message | Undecodable:
        try:
            return self._codec.decode(value)
        except CodecError as error:
            return Undecodable(str(error))

    def _learn(self, values: Sequence[bytes], messages: Sequence[Message | Undecodable]) -> None:
        if len(self._known) > SCHEMAS_MAX:
            self._known.clear()
        self._known |= {
            value[:_PREFIX_BYTES]
            for value, message in zip(values, messages, strict=True)
            if not isinstance(message, Undecodable)
        }


async def settled(reads: Reads, request: Request, partitions: Iterable[Partition]) -> str:
    """Wait for the request's token, then say how far the index is in these partitions at least."""
    await reads.settle(request, PROJECTION)
    reached = reads.listener.reached(PROJECTION)
    return as_token({at: reached[at] for at in partitions if at in reached})


def item(event: Indexed, message: Message | Undecodable) -> dict[str, Any]:
    """An event as history and lists show it; what cannot be decoded has no data and says why."""
    shown = {
        "context": event.context,
        "id": event.aggregate_id,
        "version": event.version,
        "type": event.type,
        "position": event.position,
        "time": event.time,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
    }
    if isinstance(message, Undecodable):
        return {**shown, "data": None, "undecodable": message.reason}
    return {**shown, "data": message}


_BOUNDED: LiteralString = """
    SELECT context, partition, sequence, "offset", aggregate_id, version, type, time,
        correlation_id, causation_id, message_id, place, CASE WHEN before < %(bytes)s THEN value END
    FROM (
        SELECT found.*, sum(octet_length(value)) OVER (
            ORDER BY place, sequence ROWS UNBOUNDED PRECEDING) - octet_length(value) AS before
        FROM ({inner}) AS found
    ) AS bounded
    ORDER BY place, sequence
"""
