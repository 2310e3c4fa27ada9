"""`GET /orders/{id}/live`: what happens to one aggregate, while it happens.

A stream begins behind the event in `Last-Event-ID`, or with the aggregate's first event. It has a
place in the log and asks for what lies behind that; so nothing is lost or sent twice, whatever
becomes of notices, connections and readers. One query serves all streams of the process whose
partitions have moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.history import History
from query_service.indexed import PROJECTION, EventIndex, Indexed
from query_service.parameters import WAIT_MS
from query_service.reads import Reads, checked_id, checked_parameters
from query_service.sse import (
    EventStream,
    Inbox,
    ServerEvent,
    StreamSlots,
    Subscribe,
    last_event_id,
)
from tidelog.engine.reading import Partition
from tidelog.errors import Malformed, NotYetVisible, TidelogError, Unavailable, Unknown
from tidelog.logging import get_logger
from tidelog.position import parse_position

STREAMS_PER_QUERY = 200
EVENTS_PER_STREAM = 50
"""How many events of one stream a query brings; where there are more the next one brings them."""

QUERY_BYTES_MAX = 8 * 1024 * 1024
PAUSE_S = 0.5
ROUND_S = 0.01
"""Between two rounds of queries, so that a log that is busy makes rounds longer and not more."""

KNOWN_TIMEOUT_S = 2.0

log = get_logger(__name__)


@dataclass(eq=False)
class Follower:
    """One stream: whose events it wants, behind which sequence, and up to where was looked."""

    at: Partition
    aggregate_id: str
    after: int
    inbox: Inbox
    looked: int = 0
    more: bool = True
    """Whether there may be events that were not brought yet, wherever the partition stands."""


class LiveEvents:
    """Feeds every stream of the process from the event index. It belongs to one event loop."""

    def __init__(self, reads: Reads, index: EventIndex) -> None:
        self._listener = reads.listener
        self._index = index
        self._followers: set[Follower] = set()
        self._woken = asyncio.Event()
        self._statement = index.statement(
            "SELECT place, e.* FROM unnest(%(contexts)s::text[], %(ids)s::text[], "
            "%(afters)s::bigint[], %(limits)s::int[]) "
            "WITH ORDINALITY AS f(in_context, id, after, events_max, place) "
            "CROSS JOIN LATERAL (SELECT * FROM {index} WHERE context = f.in_context "
            "AND aggregate_id = f.id AND sequence > f.after ORDER BY version "
            "LIMIT f.events_max) AS e LIMIT %(limit)s"
        )
        self._listener.follow(PROJECTION, self._woken.set)

    def follow(self, at: Partition, aggregate_id: str, after: int) -> Subscribe:
        """How a stream is connected that goes on behind this sequence of its partition."""

        @contextmanager
        def subscribe(inbox: Inbox) -> Iterator[None]:
            follower = Follower(at, aggregate_id, after, inbox)
            inbox.emptied = self._woken.set
            self._followers.add(follower)
            self._woken.set()
            try:
                yield
            finally:
                self._followers.discard(follower)

        return subscribe

    async def run(self) -> None:
        """Bring events until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            due = self._due()
            for start in range(0, len(due), STREAMS_PER_QUERY):
                try:
                    await self._bring(due[start : start + STREAMS_PER_QUERY])
                except Exception as error:  # it may pass: retry, and show it
                    expected = isinstance(error, TidelogError)
                    log.warning(
                        "live.waits", reason=str(error), exc_info=None if expected else error
                    )
                    await asyncio.sleep(PAUSE_S)
                    self._woken.set()
                    break
            await asyncio.sleep(ROUND_S)

    def _due(self) -> list[Follower]:
        reached = self._listener.reached(PROJECTION)
        return [
            each
            for each in self._followers
            if each.inbox.room and (each.more or reached.get(each.at, 0) > each.looked)
        ]

    async def _bring(self, followers: Sequence[Follower]) -> None:
        """Bring what lies behind the place of each stream."""
        reached = self._listener.reached(PROJECTION)
        looked = [reached.get(each.at, 0) for each in followers]
        limits = [min(each.inbox.room, EVENTS_PER_STREAM) for each in followers]
        page = await self._index.page(
            self._statement,
            {
                "contexts": [each.at.context for each in followers],
                "ids": [each.aggregate_id for each in followers],
                "afters": [each.after for each in followers],
                "limits": limits,
            },
            sum(limits),
            QUERY_BYTES_MAX,
        )
        found: list[list[tuple[Indexed, bytes]]] = [[] for _ in followers]
        for event, item in zip(page.events, await self._index.items(page.events), strict=True):
            found[event.place - 1].append((event, msgspec.json.encode(item)))
        for follower, events, upto, limit in zip(followers, found, looked, limits, strict=True):
            whole = _hand_over(follower, events)
            follower.looked = upto
            follower.more = page.more or len(events) >= limit or not whole


def _hand_over(follower: Follower, events: Sequence[tuple[Indexed, bytes]]) -> bool:
    """Put the events into the inbox; False where there was not room for all."""
    for event, data in events:
        if not follower.inbox.room:
            return False
        follower.inbox.offer(ServerEvent(event.position, event.type, data))
        follower.after = event.sequence
    return True


class Live:
    """Streams of the aggregates of one context."""

    def __init__(
        self,
        reads: Reads,
        events: LiveEvents,
        history: History,
        slots: StreamSlots,
    ) -> None:
        self._reads = reads
        self._events = events
        self._history = history
        self._slots = slots

    async def answer(self, request: Request) -> Response:
        """Events of one aggregate as they happen, as server-sent events."""
        checked_parameters(request, (WAIT_MS.name,))
        aggregate_id = checked_id(request, self._history.key)
        at = self._history.partition(aggregate_id)
        last = last_event_id(request)
        after = 0 if last is None else await self._known(at, last)
        await self._reads.settle(request, PROJECTION)
        # Who comes back was here before: a thousand of them at once cost the database nothing.
        if last is None and not (await self._history.page(aggregate_id, 0, 1)).events:
            raise Unknown("Nothing has happened under this id.")
        return EventStream(self._events.follow(at, aggregate_id, after), self._slots)

    async def _known(self, at: Partition, last: str) -> int:
        """The sequence that a reader had last; Malformed where no stream of ours can have sent it.

        Another process may have sent it a moment ago, so it is waited for.
        """
        position = parse_position(last)
        if Partition(position.context, position.partition) != at:
            raise Malformed("Last-Event-ID is not of this stream.")
        if not self._reads.listener.reached(PROJECTION):
            raise Unavailable("The event index is not there yet. Try again soon.")
        try:
            await self._reads.listener.wait(PROJECTION, {at: position.sequence}, KNOWN_TIMEOUT_S)
        except NotYetVisible:
            raise Malformed("Last-Event-ID is of no event that has happened.") from None
        return position.sequence
