"""`GET /events`: the log as a list.

The order is that of the log itself: by context, then partition, then sequence. A partition's
sequence is the only order that the log keeps; between partitions there is none, and times come
from several clocks. So a reader that goes on where it stopped misses nothing and sees nothing
twice. `after` says where a reader of the list stands: in the partitions that it names, behind those
sequences; the partitions in front of the first that it names are read, the others are not begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from query_service.history import listed
from query_service.indexed import PAGE_BYTES_MAX, EventIndex, Indexed, Page, settled
from query_service.parameters import LIMIT, PAGE_DEFAULT, WAIT_MS, Parameter, identifier, one_of
from query_service.reads import Reads, checked_parameters
from tidelog.engine.reading import Partition
from tidelog.errors import Invalid, Malformed
from tidelog.message import Context
from tidelog.partitioner import partition_of
from tidelog.position import Position, format_token, parse_position

AFTER_CHARACTERS_MAX = 16_384
CORRELATION_CHARACTERS_MAX = 1_024
PARTITIONS_PER_QUERY = 64

# What each filter asks of a row.
FILTERS: dict[str, LiteralString] = {
    "type": "type = %(type)s",
    "aggregate_id": "aggregate_id = %(aggregate_id)s",
    "correlation_id": "correlation_id = %(correlation_id)s",
}


class Place(NamedTuple):
    """A partition, and the sequence behind which it is read."""

    at: Partition
    after: int


class Events:
    """The list of all events."""

    def __init__(
        self, reads: Reads, index: EventIndex, contexts: Sequence[Context], partitions: int
    ) -> None:
        self._reads = reads
        self._index = index
        self._contexts = sorted(context.name for context in contexts)
        self._partitions = partitions
        self.parameters = _parameters(contexts)
        self._readers = {each.name: each.read for each in (*self.parameters, WAIT_MS)}
        # One per set of filters, made when it is first asked for.
        self._statements: dict[frozenset[str], bytes] = {}

    async def answer(self, request: Request) -> Response:
        """Events in the order of the log, in pages."""
        checked_parameters(request, tuple(self._readers))
        given = dict(request.query_params)
        values = {name: self._readers[name](text) for name, text in given.items()}
        limit = values.get("limit", PAGE_DEFAULT)
        every = self._partitions_of(values)
        places = self._places(values, every)
        as_of = await settled(self._reads, request, every)
        page = await self._page(places, values, limit)
        items = await self._index.items(page.events)
        cursor = _cursor(places, page.events[-1]) if page.more else None
        kept = {name: text for name, text in given.items() if name != "wait_ms"}
        link = f"/events?{urlencode({**kept, 'cursor': cursor})}" if cursor else None
        return listed(request, items, cursor, link, as_of)

    async def _page(self, places: Sequence[Place], values: Mapping[str, Any], limit: int) -> Page:
        """Events of the first partitions that have any, up to the bound."""
        filters = {name: values[name] for name in FILTERS if name in values}
        statement = self._statement(frozenset(filters))
        found = Page([], False)
        for start in range(0, len(places), PARTITIONS_PER_QUERY):
            several = places[start : start + PARTITIONS_PER_QUERY]
            bound = {
                **filters,
                "contexts": [place.at.context for place in several],
                "partitions": [place.at.number for place in several],
                "afters": [place.after for place in several],
            }
            left = limit - len(found.events)
            page = await self._index.page(statement, bound, left, PAGE_BYTES_MAX)
            found = Page([*found.events, *page.events], page.more)
            if page.more:
                break
            if len(found.events) == limit:
                return found._replace(more=start + PARTITIONS_PER_QUERY < len(places))
        return found

    def _statement(self, filters: frozenset[str]) -> bytes:
        made = self._statements.get(filters)
        if made is None:
            made = self._statements[filters] = self._index.statement(_select(filters))
        return made

    def _partitions_of(self, values: Mapping[str, Any]) -> list[Partition]:
        """The partitions that the filters leave, in order."""
        contexts = [values["context"]] if "context" in values else self._contexts
        numbers: Sequence[int] = range(self._partitions)
        if "aggregate_id" in values:
            numbers = [partition_of(values["aggregate_id"], self._partitions)]
        return [Partition(context, number) for context in contexts for number in numbers]

    def _places(self, values: Mapping[str, Any], every: Sequence[Partition]) -> list[Place]:
        """The partitions that are not read yet, and where each goes on."""
        after = self._after(values.get("cursor", values.get("after", ())))
        contexts = {at.context for at in every}
        begin = min((at for at in after if at.context in contexts), default=every[0])
        return [Place(at, after.get(at, 0)) for at in every if at >= begin]

    def _after(self, positions: Sequence[Position]) -> dict[Partition, int]:
        for position in positions:
            known = position.partition < self._partitions
            if position.context not in self._contexts or not known:
                raise Malformed("A position names a context or a partition that is not here.")
        return {Partition(*position[:2]): position.sequence for position in positions}


def _select(filters: frozenset[str]) -> LiteralString:
    """The events of each place, up to the bound.

    Where an aggregate is named its own index gives them: its versions are in the order of its
    sequences.
    """
    conditions: LiteralString = "".join(
        f" AND {condition}" for name, condition in FILTERS.items() if name in filters
    )
    order: LiteralString = "version" if "aggregate_id" in filters else "sequence"
    return f"""
        SELECT * FROM unnest(%(contexts)s::text[], %(partitions)s::int[], %(afters)s::bigint[])
            WITH ORDINALITY AS p(in_context, in_partition, after, place)
        CROSS JOIN LATERAL (
            SELECT * FROM {{index}} WHERE context = p.in_context AND partition = p.in_partition
                AND sequence > p.after{conditions} ORDER BY {order} LIMIT %(limit)s
        ) AS e ORDER BY place, sequence LIMIT %(limit)s"""


def _cursor(places: Sequence[Place], last: Indexed) -> str:
    """Where the page ended, and where the partitions behind it begin."""
    behind = [Position(*place.at, place.after) for place in places if place.at > last.at]
    begun = [position for position in behind if position.sequence]
    return format_token([Position(*last.at, last.sequence), *begun])


def _parameters(contexts: Sequence[Context]) -> tuple[Parameter, ...]:
    types = sorted({kind.__name__ for context in contexts for kind in context.event_types})
    return (
        one_of("context", [context.name for context in contexts], "Only of this context."),
        one_of("type", types, "Only of this type."),
        identifier("aggregate_id", "Only of aggregates with this id."),
        Parameter(
            "correlation_id",
            _correlation_id,
            {"type": "string", "minLength": 1, "maxLength": CORRELATION_CHARACTERS_MAX},
            "Only of this flow.",
        ),
        _positions("after", "Behind these positions: orders:3:1042, or a consistency token."),
        LIMIT,
        _positions("cursor", "`next_cursor` of the page before, with the same filters."),
    )


def _positions(name: str, description: str) -> Parameter:
    def read(text: str) -> list[Position]:
        if len(text) > AFTER_CHARACTERS_MAX:
            raise Malformed(f"{name} is too long to be positions.")
        return [parse_position(part.strip(" ")) for part in text.split(",")]

    return Parameter(name, read, {"type": "string"}, description)


def _correlation_id(text: str) -> str:
    if not 1 <= len(text) <= CORRELATION_CHARACTERS_MAX:
        raise Invalid(
            f"correlation_id takes 1 to {CORRELATION_CHARACTERS_MAX} characters.", "/correlation_id"
        )
    return text
