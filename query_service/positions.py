"""`GET /positions/live`: how far the serving read models are, as it changes. For the gateway.

The stream begins with `positions`, all of them, as soon as PostgreSQL has answered once more: what
was heard by a connection that hangs by now is not handed on. Then `moved` names, by read model, the
partitions whose rows may have changed, with where they stand now, whether or not that is further
on; `alive` says that PostgreSQL has answered and nothing else happened. After a switch of
generations `positions` comes again, and whoever kept rows forgets them all. Where the connection to
PostgreSQL breaks the stream ends, so what is not told is never taken for what did not happen.

One event at most waits for a reader; what happens meanwhile gathers in the next one, by partition.
So a reader that is slow hears later and in larger pieces, needs no more room, and misses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import checked_parameters
from query_service.sse import EventStream, Inbox, ServerEvent, StreamSlots
from tidelog.engine.reading import Partition
from tidelog.errors import Unavailable
from tidelog.postgres.listener import PositionListener, Reached, as_token

READERS_MAX: Final = 64
"""How many gateways may listen at once."""

# Nobody resumes: who comes back begins with all positions.
_ID: Final = "-"


class Reader:
    """What one reader has still to be told."""

    def __init__(self, feed: PositionFeed, inbox: Inbox) -> None:
        self._feed = feed
        self._inbox = inbox
        self._moved: dict[str, dict[Partition, int]] = {}
        self._begun = False
        self._all = True
        self._waits = False
        inbox.emptied = self._emptied

    def moved(self, projection: str, reached: Reached) -> None:
        """Tell that these partitions have moved."""
        self._moved.setdefault(projection, {}).update(reached)
        self._tell()

    def anew(self) -> None:
        """Tell all positions again."""
        self._all = True
        self._tell()

    def proved(self) -> None:
        """Tell that the connection answers, where nothing else waits that will show it."""
        if not self._begun:
            self._begun = True
            self._tell()
        elif not self._waits:
            self._offer("alive", b"{}")

    def end(self) -> None:
        """End the stream; what waits in it is of no use any more."""
        self._inbox.end()

    def _emptied(self) -> None:
        self._waits = False
        self._tell()

    def _tell(self) -> None:
        if self._waits or not self._begun:
            return
        if self._all:
            self._all = False
            self._moved.clear()
            self._offer("positions", self._feed.all_positions())
        elif self._moved:
            told = {projection: as_token(at) for projection, at in self._moved.items()}
            self._moved.clear()
            self._offer("moved", msgspec.json.encode(told))

    def _offer(self, event: str, data: bytes) -> None:
        self._waits = True
        self._inbox.offer(ServerEvent(_ID, event, data))


class PositionFeed:
    """Hands what the listener hears on to every reader. It belongs to one event loop."""

    def __init__(self, listener: PositionListener, partitions: int) -> None:
        self._listener = listener
        self._partitions = partitions
        self._readers: set[Reader] = set()
        self._slots = StreamSlots(streams_max=READERS_MAX, per_caller_max=READERS_MAX)
        listener.hearer = self

    async def stream(self, request: Request) -> Response:
        """How far the read models are, as server-sent events; 503 while PostgreSQL is away."""
        checked_parameters(request, ())
        if self._listener.trouble is not None:
            raise Unavailable("The read models cannot be reached now.")
        return EventStream(self._subscribed, self._slots)

    def all_positions(self) -> bytes:
        """The document of a `positions` event."""
        return msgspec.json.encode(
            {
                "partitions": self._partitions,
                "read_models": {
                    generation.projection: {
                        "generation": generation.table,
                        "positions": as_token(reached),
                    }
                    for generation, reached in self._listener.serving()
                },
            }
        )

    @contextmanager
    def _subscribed(self, inbox: Inbox) -> Iterator[None]:
        if self._listener.trouble is not None:
            inbox.end()  # it broke since the request came in
            yield
            return
        reader = Reader(self, inbox)
        self._readers.add(reader)
        try:
            yield
        finally:
            self._readers.discard(reader)

    # --- what the listener tells ------------------------------------------------------------

    def moved(self, projection: str, reached: Reached) -> None:
        """Tell every reader."""
        for reader in self._readers:
            reader.moved(projection, reached)

    def anew(self) -> None:
        """Tell every reader all positions again."""
        for reader in self._readers:
            reader.anew()

    def proved(self) -> None:
        """Tell every reader that the connection answers."""
        for reader in self._readers:
            reader.proved()

    def lost(self) -> None:
        """End every stream."""
        for reader in self._readers:
            reader.end()
        self._readers.clear()
