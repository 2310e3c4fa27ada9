"""`GET /metrics/live`: the windows that the live_metrics process counts, as server-sent events.

The first event holds every window; each further one holds those that have changed. One poll per
interval serves all readers, and nobody is asked while nobody reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import httpx2
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import checked_parameters
from query_service.sse import (
    LAST_EVENT_ID_CHARACTERS_MAX,
    EventStream,
    Inbox,
    ServerEvent,
    StreamSlots,
    last_event_id,
)
from schemas import CONTEXTS
from tidelog.errors import Malformed, Unavailable
from tidelog.logging import get_logger
from tidelog.position import parse_position

POLL_INTERVAL_S: Final = 1.0
TIMEOUT_S: Final = 2.0
FAILURES_MAX: Final = 3
"""So many polls in a row may fail; then the streams end, and a new one is answered 503."""

ANSWER_BYTES_MAX: Final = 1024 * 1024
NO_POSITION: Final = "0"

_CONTEXTS = frozenset(context.name for context in CONTEXTS)

log = get_logger(__name__)


class _Window(msgspec.Struct, frozen=True):
    begin: str = msgspec.field(name="from")


class _Windows(msgspec.Struct, frozen=True):
    """What the live_metrics process answers."""

    position: str
    as_of: str
    complete: bool
    size_seconds: int
    hop_seconds: int
    windows: list[msgspec.Raw]

    def only(self, windows: Sequence[msgspec.Raw]) -> ServerEvent:
        """These windows as an event; its id is the position that they hold."""
        data = msgspec.json.encode(msgspec.structs.replace(self, windows=[*windows]))
        return ServerEvent(self.id, "windows", data)

    @property
    def id(self) -> str:
        """The position; NO_POSITION where there is none, or where it is too long to come back."""
        short = 0 < len(self.position) <= LAST_EVENT_ID_CHARACTERS_MAX
        return self.position if short else NO_POSITION

    def by_start(self) -> dict[str, bytes]:
        """Each window's bytes by its start."""
        return {
            msgspec.json.decode(window, type=_Window).begin: bytes(window)
            for window in self.windows
        }


class LiveWindows:
    """The windows as they were polled last, and who is told of the next."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url,
            timeout=httpx2.Timeout(TIMEOUT_S),
            limits=httpx2.Limits(max_connections=2),
            follow_redirects=False,
            trust_env=False,  # the process is a neighbour, never behind somebody's proxy
        )
        self._windows: _Windows | None = None
        self._inboxes: list[Inbox] = []
        self._polling: asyncio.Task[None] | None = None

    async def latest(self) -> _Windows:
        """The windows, at most one poll old; Unavailable where they cannot be had."""
        if self._windows is None or self._polling is None:
            self._windows = await self._fetch()
        return self._windows

    def subscribe(self, had: str | None) -> Callable[[Inbox], AbstractContextManager[None]]:
        """Tells an inbox every window, unless `had` is their position, and then the changed."""

        @contextmanager
        def subscribed(inbox: Inbox) -> Iterator[None]:
            windows = self._windows
            if windows is None:
                inbox.end()  # they were lost since they were looked up
            elif had == NO_POSITION or windows.id != had:
                inbox.offer(windows.only(windows.windows))
            self._inboxes.append(inbox)
            if self._polling is None:
                self._polling = asyncio.create_task(self._poll())
            try:
                yield
            finally:
                self._inboxes.remove(inbox)

        return subscribed

    async def close(self) -> None:
        """End every stream."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait({self._polling})
        await self._client.aclose()

    async def _poll(self) -> None:
        """Poll for as long as somebody reads and the process answers."""
        failures = 0
        try:
            while self._inboxes and failures < FAILURES_MAX:
                started = time.monotonic()
                try:
                    self._tell(await self._fetch())
                    failures = 0
                except Unavailable as error:
                    failures += 1
                    log.warning("live_metrics.unavailable", reason=str(error), failures=failures)
                await asyncio.sleep(max(started + POLL_INTERVAL_S - time.monotonic(), 0))
        finally:
            self._polling, self._windows = None, None
            for inbox in self._inboxes:
                inbox.end()

    def _tell(self, now: _Windows) -> None:
        """Offer what has changed since the last poll."""
        before = self._windows
        self._windows = now
        known = before.by_start() if before is not None else {}
        changed = [
            msgspec.Raw(window)
            for start, window in now.by_start().items()
            if known.get(start) != window
        ]
        moved = before is None or (before.position, before.complete) != (now.position, now.complete)
        if changed or moved:
            event = now.only(changed)
            for inbox in self._inboxes:
                inbox.offer(event)

    async def _fetch(self) -> _Windows:
        try:
            answer = await self._client.get("/windows")
        except httpx2.TransportError as error:
            raise Unavailable("The live metrics are not there now. Try again soon.") from error
        if answer.status_code != 200 or len(answer.content) > ANSWER_BYTES_MAX:
            raise Unavailable("The live metrics are being counted from the log. Try again soon.")
        return msgspec.json.decode(answer.content, type=_Windows)


class LiveMetrics:
    """The query."""

    def __init__(self, url: str, slots: StreamSlots) -> None:
        self._windows = LiveWindows(url)
        self._slots = slots

    async def stream(self, request: Request) -> Response:
        """The live windows as server-sent events, without an end; 503 while nobody counts them."""
        checked_parameters(request, ())
        had = last_event_id(request)
        if had is not None and had != NO_POSITION:
            _check_position(had)
        await self._windows.latest()
        return EventStream(self._windows.subscribe(had), self._slots)

    async def close(self) -> None:
        """End every stream."""
        await self._windows.close()


def _check_position(had: str) -> None:
    """Raise Malformed where no event of this stream had such an id."""
    try:
        contexts = {parse_position(part).context for part in had.split(",")}
    except Malformed:
        contexts = set()
    if not contexts or not contexts <= _CONTEXTS:
        raise Malformed("Last-Event-ID is not the id of an event of this stream.")
