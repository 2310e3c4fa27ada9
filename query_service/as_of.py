"""`?as_of=`: an order as it was, folded by the code that folds the read model.

The events come from the event index, and so do people's decisions about them: what is folded is
what the read model folds, up to another place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, assert_never

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.indexed import PROJECTION as INDEX
from query_service.indexed import EventIndex, Indexed, Undecodable, settled
from query_service.parameters import WAIT_MS, WAIT_MS_DEFAULT, Parameter, instant
from query_service.reads import Reads, checked_id, checked_parameters, document
from query_service.rows import Nested, Shown
from tidelog.engine.folding import Decision, Decisions, Folder, StoredRow, row_owner
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import Fact, Partition
from tidelog.errors import Blocked, Invalid, Malformed, TidelogError, Unavailable, Unknown
from tidelog.logging import get_logger
from tidelog.message import Context, Message
from tidelog.parking import read_decision, target_of
from tidelog.partitioner import partition_of
from tidelog.position import Position, parse_position
from tidelog.postgres.tables import KEPT_COLUMNS
from tidelog.projection import Projection

EVENTS_MAX = 10_000
"""How many events of one key are folded for one answer."""

BYTES_MAX = 16 * 1024 * 1024

log = get_logger(__name__)

_VERSION = re.compile(r"[0-9]{1,18}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]", re.ASCII)
_INSTANT = instant("as_of", "")

AS_OF = Parameter(
    "as_of",
    str,
    {"type": "string", "examples": ["3", "2026-07-31T12:30:15Z", "orders:3:1042"]},
    "As it was: after a version, at a time (RFC 3339), or at a position.",
)


class AtVersion(NamedTuple):
    """After the event with this version."""

    version: int


class AtTime(NamedTuple):
    """After the last event that was recorded by then."""

    time: datetime


class AtPosition(NamedTuple):
    """After what the partition held up to there."""

    position: Position


Moment = AtVersion | AtTime | AtPosition


class AsOf:
    """Answers with a row as it was. The projection's rows are the aggregates of its one context."""

    def __init__(
        self,
        reads: Reads,
        index: EventIndex,
        projection: Projection[Any, Any],
        shown: Shown,
        contexts: Sequence[Context],
        partitions: int,
    ) -> None:
        context = row_owner(projection)
        assert context is not None, f"the rows of {projection.name} belong to no one aggregate"
        self._reads = reads
        self._index = index
        self._projection = projection
        self._shown = shown
        self._context = context
        self._contexts = contexts
        self._partitions = partitions
        self._events = index.statement(
            "SELECT 0 AS place, * FROM {index} WHERE context = %(context)s "
            "AND aggregate_id = %(id)s ORDER BY version LIMIT %(limit)s"
        )
        self._decided = index.statement(
            "SELECT 0 AS place, d.* FROM unnest(%(targets)s::text[]) AS t CROSS JOIN LATERAL ("
            "SELECT * FROM {index} WHERE context = 'operations' AND aggregate_id = t "
            "ORDER BY version DESC LIMIT 1) AS d LIMIT %(limit)s"
        )

    async def answer(self, request: Request) -> Response:
        """The row as it was, in the form of today's."""
        checked_parameters(request, (AS_OF.name, WAIT_MS.name))
        key = checked_id(request, self._shown.key)
        own = Partition(self._context, partition_of(key, self._partitions))
        moment = read_moment(request.query_params[AS_OF.name])
        if isinstance(moment, AtPosition):
            await self._reach(request, own, moment.position)
        as_of = await settled(self._reads, request, [own])
        events = await self._until(key, moment)
        row = await self._folded(key, events)
        return document(request, self._document(row), row.version, as_of)

    async def _reach(self, request: Request, own: Partition, position: Position) -> None:
        """Wait until the index has the position, which must be of the key's own partition."""
        if Partition(*position[:2]) != own:
            raise Malformed(f"as_of takes a position of {own}: there this id has its events.")
        asked = request.query_params.get(WAIT_MS.name)
        wait_ms = WAIT_MS_DEFAULT if asked is None else WAIT_MS.read(asked)
        await self._reads.listener.wait(INDEX, {own: position.sequence}, wait_ms / 1_000)

    async def _until(self, key: str, moment: Moment) -> list[Indexed]:
        """The key's events up to the moment; Unknown where it had none, or has not so many."""
        values = {"context": self._context, "id": key}
        page = await self._index.page(self._events, values, EVENTS_MAX, BYTES_MAX)
        events = page.events[: _count(page.events, moment)]
        if not events:
            raise Unknown("There was nothing under this id then.")
        if len(events) == len(page.events) and page.more:
            raise Invalid(
                f"as_of folds at most {EVENTS_MAX} events of {BYTES_MAX} bytes.", "/as_of"
            )
        if isinstance(moment, AtVersion) and events[-1].version != moment.version:
            raise Unknown(f"There is no such version yet; the last is {events[-1].version}.")
        return events

    async def _folded(self, key: str, events: Sequence[Indexed]) -> StoredRow:
        """The fold of the events with people's decisions about them."""
        messages = await self._index.decoded(events)
        broken = [each for each in messages if isinstance(each, Undecodable)]
        if broken:
            raise Unavailable(f"An event of this id cannot be read: {broken[0].reason}")
        facts = [fact_of(*each) for each in zip(events, messages, strict=True)]
        folder = Folder(self._projection, await self._decisions(events))
        touches, failure = folder.touches(facts)
        changes = folder.fold(touches, {})
        failed = failure.fact if failure else changes.parked[0].fact if changes.parked else None
        if failed is not None:
            raise Blocked(f"{type(failed.event).__name__} at {failed.position} cannot be folded.")
        row = changes.upserts.get(key)
        if row is None:
            raise Unknown("There was nothing under this id then.")
        return row

    async def _decisions(self, events: Sequence[Indexed]) -> Decisions:
        name, version = self._projection.name, self._projection.version
        places = {
            target_of(name, version, Position(*event.at, event.sequence)): event for event in events
        }
        found = await self._index.rows(
            self._decided, {"targets": [*places], "limit": EVENTS_MAX, "bytes": BYTES_MAX}
        )
        decisions: dict[tuple[Partition, int], Decision] = {}
        for decided, message in zip(found, await self._index.decoded(found), strict=True):
            event = places[decided.aggregate_id]
            decision = self._decision(message)
            if decision is not None:
                decisions[event.at, event.sequence] = decision
        return decisions

    def _decision(self, message: Message | Undecodable) -> Decision | None:
        """The decision; None where it fits no event, which the projectors pass over as well."""
        if isinstance(message, Undecodable):
            raise Unavailable(f"A decision about this id cannot be read: {message.reason}")
        try:
            return read_decision(self._contexts, message)
        except TidelogError as error:
            log.warning("as_of.decision_does_not_fit", reason=str(error))
            return None

    def _document(self, row: StoredRow) -> dict[str, Any]:
        kept = {name: getattr(row, name) for name in KEPT_COLUMNS}
        values: list[Any] = []
        for field in self._shown.fields.values():
            assert isinstance(field, str), "what a row as of then shows is its columns"
            value = kept[field] if field in kept else getattr(row.row, field)
            values.append(msgspec.json.encode(value) if isinstance(field, Nested) else value)
        return self._shown.document(values)


def read_moment(text: str) -> Moment:
    """The moment that `as_of` names; Malformed where it names none."""
    if _VERSION.fullmatch(text):
        return AtVersion(int(text))
    try:
        if _TIME.match(text):
            return AtTime(_INSTANT.read(text))
        return AtPosition(parse_position(text))
    except (Invalid, Malformed):
        raise Malformed(
            "as_of takes a version (3), a time with its offset (2026-07-31T12:30:15Z) or a "
            "position (orders:3:1042)."
        ) from None


def fact_of(event: Indexed, message: Message | Undecodable) -> Fact:
    """The event as the projectors fold it; no fold asks for its headers."""
    assert not isinstance(message, Undecodable), "only what can be read is folded"
    record = StoredRecord(event.offset, event.aggregate_id.encode(), event.value, [])
    sequence, version, time = event.sequence, event.version, event.time
    return Fact(message, event.at, event.offset, sequence, version, time, record)


def _count(events: Sequence[Indexed], moment: Moment) -> int:
    """How many of a key's events, which stand in order, are folded.

    Clocks of two owners may differ: what was there at a time goes up to the last event recorded by
    then, with all events before it.
    """
    match moment:
        case AtVersion(version):
            there = [event.version <= version for event in events]
        case AtTime(time):
            there = [event.time <= time for event in events]
        case AtPosition(position):
            there = [event.sequence <= position.sequence for event in events]
        case _:
            assert_never(moment)
    return len(there) - there[::-1].index(True) if True in there else 0
