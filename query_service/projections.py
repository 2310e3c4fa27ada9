"""`GET /projections`: every read model, how far it is, and how far behind the log."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from query_service.reads import checked_parameters
from tidelog.definitions import load_projections
from tidelog.errors import Unavailable
from tidelog.lag import GenerationLag
from tidelog.lag_observer import LagObserver
from tidelog.settings import Settings

LOOK_TIMEOUT_S: Final = 11.0
"""How long a request waits for a look: the database may hang, and Kafka may."""


class Projections:
    """The query over the read models themselves. It asks the database and the log, no projector.

    One look is under way at a time, in a thread, and all who ask meanwhile wait for it: where the
    database hangs it holds up one thread and not one for each request. One event loop uses it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._projections = load_projections(settings.projections)
        self._observer: LagObserver | None = None
        self._making = threading.Lock()
        self._looking: asyncio.Task[list[dict[str, object]]] | None = None

    async def all(self, request: Request) -> Response:
        """Every read model with its positions, its lag in records and in seconds, and its state."""
        checked_parameters(request, ("wait_ms",))
        items = await self._looked()
        body = msgspec.json.encode({"items": items, "next_cursor": None})
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    async def _looked(self) -> list[dict[str, object]]:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self._items))
            # What it ends with is told to those who wait; there may be none any more.
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        done, _ = await asyncio.wait({self._looking}, timeout=LOOK_TIMEOUT_S)
        if not done:
            raise Unavailable("The read models cannot be reached now.")
        return self._looking.result()

    def close(self) -> None:
        """Release the connections, if anybody has asked."""
        with self._making:
            if self._observer is not None:
                self._observer.close()
            self._observer = None

    def _items(self) -> list[dict[str, object]]:
        return [{**each.item(), "partitions": each.partition_items()} for each in self._look()]

    def _look(self) -> list[GenerationLag]:
        with self._making:
            if self._observer is None:
                self._observer = LagObserver(self._projections, self._settings)
        return self._observer.look()
