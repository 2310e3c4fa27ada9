"""Server-sent events: one answer without an end, and the bounds that keep it cheap.

A feed puts events into a reader's inbox; the answer sends what is in it, and a comment where
nothing came. An inbox that is full ends the stream: the reader comes back with `Last-Event-ID`.
No stream holds a connection to the database.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from tidelog.errors import Malformed
from tidelog.http.asgi import Connection, Receive, Scope, Send
from tidelog.http.errors import QuotaExceeded
from tidelog.http.problems import problem_response

HEARTBEAT_S = 15.0
"""After so long without an event a comment tells that the stream is alive."""

SEND_TIMEOUT_S = 20.0
"""A reader that takes nothing for so long is cut off."""

INBOX_EVENTS_MAX = 256
INBOX_BYTES_MAX = 1024 * 1024
SOCKET_BUFFER_BYTES = 64 * 1024
LAST_EVENT_ID_CHARACTERS_MAX = 4_096
GONE_TIMEOUT_S = 1.0

_HEARTBEAT = b":\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # A proxy that collects an answer before it hands it on would show nothing for ever.
    (b"x-accel-buffering", b"no"),
]


class ServerEvent(NamedTuple):
    """One event of a stream. `data` is JSON and holds no line break."""

    id: str
    event: str
    data: bytes

    @property
    def frame(self) -> bytes:
        """The event as it goes out."""
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (
            self.id.encode(),
            self.event.encode(),
            self.data,
        )


class Inbox:
    """What waits to be sent to one reader. It belongs to one event loop.

    A feed that can wait sets `emptied`, which is called when there is room again.
    """

    def __init__(
        self, *, events_max: int = INBOX_EVENTS_MAX, bytes_max: int = INBOX_BYTES_MAX
    ) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()
        self.ended = False
        self.emptied: Callable[[], None] = _nothing

    @property
    def room(self) -> int:
        """How many events it takes now. One event is taken whatever its size."""
        if self.ended or self._bytes >= self._bytes_max:
            return 0
        return self._events_max - len(self._frames)

    def offer(self, event: ServerEvent) -> bool:
        """Put the event in; False, and the stream ends, where there is no room."""
        if not self.room:
            self.end()
            return False
        frame = event.frame
        self._frames.append(frame)
        self._bytes += len(frame)
        self._woken.set()
        return True

    def end(self) -> None:
        """Send what is in here, then end the stream."""
        self.ended = True
        self._woken.set()

    async def take(self, wait_s: float) -> bytes | None:
        """All frames, as soon as there are any; empty after `wait_s`; None at the end."""
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            return b""
        if not self._frames:
            assert self.ended, "an inbox wakes for frames or for its end"
            return None
        taken = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        if not self.ended:
            self._woken.clear()
        self.emptied()
        return taken


def _nothing() -> None:
    """What a feed that does not wait for room does when there is some."""


Subscribe = Callable[[Inbox], AbstractContextManager[None]]
"""Connects a feed to an inbox for as long as the context is open."""


class StreamSlots(Collector):
    """How many event streams may be open at once, in total and for one caller. It is a metric."""

    def __init__(self, *, streams_max: int, per_caller_max: int) -> None:
        self._streams_max = streams_max
        self._per_caller_max = per_caller_max
        self._open: Counter[str] = Counter()
        self.taken = 0

    def collect(self) -> Iterator[Metric]:
        """The metric as Prometheus reads it."""
        yield GaugeMetricFamily(
            "tidelog_event_streams", "Event streams that are open.", value=self.taken
        )

    @contextmanager
    def take(self, caller: str) -> Iterator[None]:
        """Hold a slot inside the context; QuotaExceeded where there is none left."""
        if self.taken >= self._streams_max or self._open[caller] >= self._per_caller_max:
            raise QuotaExceeded("Too many event streams are open. Close one, or try again later.")
        self.taken += 1
        self._open[caller] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class EventStream(Response):
    """An answer whose body is events until the reader leaves, the feed ends or the service stops.

    Its slot is taken and given back inside its own ASGI call: whatever becomes of the connection,
    also before the first byte went out, the call ends and the slot is free.
    """

    def __init__(self, subscribe: Subscribe, slots: StreamSlots, caller: str = "local") -> None:
        self.status_code = 200
        self.background = None
        self._subscribe = subscribe
        self._slots = slots
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events, or the problem that no slot is left."""
        try:
            with self._slots.take(self._caller):
                await self._stream(scope, receive, send)
        except QuotaExceeded as error:
            await problem_response(error, scope["path"])(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        inbox = Inbox()
        connection: Connection | None = scope.get("tidelog.connection")
        if connection is not None:
            connection.begin_stream(SOCKET_BUFFER_BYTES, inbox.end)
        leaving = asyncio.create_task(_until_gone(receive, inbox))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            with self._subscribe(inbox):
                read = await _send_all(inbox, send)
            if not read and connection is not None:
                connection.abort()
                await asyncio.wait({leaving}, timeout=GONE_TIMEOUT_S)
            elif not leaving.done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            leaving.cancel()


async def _send_all(inbox: Inbox, send: Send) -> bool:
    """Send until the end; False where the reader took nothing for too long."""
    while (frames := await inbox.take(HEARTBEAT_S)) is not None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(
                    {
                        "type": "http.response.body",
                        "body": frames or _HEARTBEAT,
                        "more_body": True,
                    }
                )
        except TimeoutError:
            return False
    return True


async def _until_gone(receive: Receive, inbox: Inbox) -> None:
    """Wait for the reader to leave; then the stream ends."""
    while (await receive())["type"] != "http.disconnect":
        continue
    inbox.end()


def last_event_id(request: Request) -> str | None:
    """What the reader had last; Malformed where it says so more than once or at great length."""
    given = request.headers.getlist("last-event-id")
    if len(given) > 1 or any(len(each) > LAST_EVENT_ID_CHARACTERS_MAX for each in given):
        raise Malformed("Last-Event-ID takes the id of one event.")
    return given[0].strip(" \t") if given else None
