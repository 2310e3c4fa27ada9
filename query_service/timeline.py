"""What happened: history, the list of events, time travel and live streams, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from query_service.as_of import AsOf
from query_service.events import Events
from query_service.history import PARAMETERS, History
from query_service.indexed import EventIndex
from query_service.live import Live, LiveEvents
from query_service.orders import DETAIL
from query_service.parameters import Parameter
from query_service.reads import Reads
from query_service.sse import StreamSlots
from tidelog.codec import Codec
from tidelog.definitions import load_projections, projection_named
from tidelog.errors import ConfigurationError
from tidelog.message import Context
from tidelog.projection import Projection
from tidelog.registry import RegistryClient
from tidelog.settings import Settings

REGISTRY_TIMEOUT_S = 1.0
REGISTRY_ATTEMPTS_MAX = 2
"""A request waits for the registry for a schema that is new to this process, and not for long."""

Query: TypeAlias = Callable[[Request], Awaitable[Response]]

HISTORIES = (
    ("orders", "/orders", "order_id"),
    ("inventory", "/stock", "sku"),
    ("payments", "/payments", "order_id"),
    ("shipping", "/shipments", "order_id"),
    ("returns", "/returns", "return_id"),
)
"""Each context whose aggregates people ask about: its name, its path, and the name of its ids."""


class Timeline:
    """Everything that is answered from the event index. It belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        reads: Reads,
        contexts: Sequence[Context],
        slots: StreamSlots,
    ) -> None:
        self._registry = RegistryClient(
            settings.registry_url,
            timeout_s=REGISTRY_TIMEOUT_S,
            attempts_max=REGISTRY_ATTEMPTS_MAX,
        )
        codec = Codec(contexts, self._registry, settings.topic_prefix)
        index, partitions = EventIndex(reads.database, codec), settings.partitions
        self._streams = LiveEvents(reads, index)
        self._histories = [
            (path, History(reads, index, context, key, partitions))
            for context, path, key in HISTORIES
        ]
        orders = self._histories[0][1]
        self._events = Events(reads, index, contexts, partitions)
        self._live = Live(reads, self._streams, orders, slots)
        found = projection_named(load_projections(settings.projections), DETAIL.projection)
        if not isinstance(found, Projection):
            raise ConfigurationError(f"{DETAIL.projection} is no projection that folds rows.")
        self.order_as_of = AsOf(reads, index, found, DETAIL, contexts, partitions)

    @property
    def routes(self) -> list[tuple[str, Query, Sequence[Parameter]]]:
        """The path of each query, who answers, and what it takes."""
        histories = [
            (f"{path}/{{{history.key}}}/history", history.answer, PARAMETERS)
            for path, history in self._histories
        ]
        return [
            *histories,
            ("/orders/{order_id}/live", self._live.answer, ()),
            ("/events", self._events.answer, self._events.parameters),
        ]

    async def run(self) -> None:
        """Feed the streams until cancelled."""
        await self._streams.run()

    def close(self) -> None:
        """Close the connections to the registry."""
        self._registry.close()
