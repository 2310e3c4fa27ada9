"""The Faust app: an agent that follows the log, and a table of hopping windows.

The table lives in memory. Its changelog is the log of events itself: a start finds the last event
before the oldest window (last_events.py) and reads on from there. So windows and progress always
agree, whatever was killed when: both are made of the same events, in one process, from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import faust
from aiokafka.errors import IllegalStateError
from faust.tables.wrappers import WindowWrapper
from faust.types import TP, EventT, StreamT

from projectors.live.figures import (
    DURATION_S_MAX,
    HOP_S,
    NOTHING,
    SIZE_S,
    Figures,
    figures_of,
    plus,
)
from projectors.live.follower import LATE_S_MAX, Follower, OpenOrders
from projectors.live.transport import LogTransport
from schemas.orders import ORDERS
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import Fact, Partition
from tidelog.errors import Unavailable
from tidelog.kafka.security import python_connection
from tidelog.logging import get_logger
from tidelog.settings import Settings
from tidelog.wire import events_topic

KEPT_S: Final = 900
"""How long a window is kept after its end."""

RETRY_S: Final = 0.5
BUFFERED_RECORDS_MAX: Final = 4_096
REQUEST_TIMEOUT_S: Final = 30.0

log = get_logger("projectors.live")


class WindowTable(faust.Table[Any, Any]):
    """A table that is rebuilt from the log of events, and so writes no changelog of its own."""

    def on_key_set(self, key: Any, value: Any) -> None:
        """Nothing is sent."""

    def on_key_del(self, key: Any) -> None:
        """Nothing is sent."""


class LiveApp:
    """Counts what a follower takes in. Made, started and stopped on one event loop."""

    def __init__(
        self,
        settings: Settings,
        follower: Follower,
        contexts: Sequence[str],
        *,
        now: Callable[[], float],
        transport: type[LogTransport] = LogTransport,
    ) -> None:
        self.trouble: str | None = None
        self.failure: Exception | None = None
        self._passed: dict[TP, int] = {}
        self._now = now
        self._follower = follower
        topics = {context: events_topic(context, settings.topic_prefix) for context in contexts}
        self._contexts = {topic: context for context, topic in topics.items()}
        self._topics = topics
        self._open = {at: OpenOrders() for at in follower.progress()}
        self._app = _faust_app(settings)
        self._app.transport = transport(
            self._app.conf.broker, self._app, self._next_offset, self._unreadable
        )
        self._table = WindowTable(
            self._app,
            name="live_windows",
            default=lambda: NOTHING,
            window=faust.HoppingWindow(SIZE_S, HOP_S),
        )
        self._time = 0.0
        # Windows of log time: of the event that is being counted, not of Kafka's time stamp.
        self._windows = WindowWrapper(self._table, relative_to=lambda _: self._time)
        # Raw bytes: our codec reads them. No acknowledgements: Faust then commits no offsets.
        source = self._app.topic(
            *self._contexts,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            acks=False,
            allow_empty=True,
        )
        self._app.agent(source, name="live_windows")(self._follow)

    def rebuild(self, records: Callable[[Partition, int], Iterable[StoredRecord]]) -> None:
        """Take in all that the log holds, before the app is started.

        Faust would do it too, at a tenth of the speed: here an event is added to the ten seconds
        that it lies in, and those to their windows at the end.
        """
        slices: dict[tuple[Partition, int], Figures] = {}
        for at in self._follower.progress():
            for record in records(at, self._follower.next_offset(at)):
                fact = self._follower.take(at, record)
                self._passed[self._place(at)] = record.offset
                figures = None if fact is None else self._figures(at, fact)
                if fact is not None and figures is not None:
                    key = at, int(fact.recorded_at.timestamp()) // HOP_S * HOP_S
                    slices[key] = plus(slices.get(key, NOTHING), figures)
        for (at, begin), figures in slices.items():
            self._add(at, begin, figures)

    async def start(self) -> None:
        """Join the group and begin to read."""
        self._app.conf.datadir.parent.mkdir(parents=True, exist_ok=True)
        await self._app.start()

    async def stop(self) -> None:
        """Leave."""
        await self._app.stop()

    @property
    def crashed(self) -> bool:
        """Whether Faust, or the agent, has given up."""
        return self.failure is not None or self._app.crashed

    def windows(self) -> dict[int, Figures]:
        """The figures of every kept window in which something happened, by its start."""
        self._forget()
        found: dict[int, Figures] = {}
        for (_, (start, _)), figures in self._table.data.items():
            found[int(start)] = plus(found.get(int(start), NOTHING), figures)
        return found

    @property
    def open_orders(self) -> int:
        """How many orders are remembered that may yet be confirmed."""
        return sum(map(len, self._open.values()))

    async def read_again(self, at: Partition) -> None:
        """Read a partition again that stands still though the log goes on."""
        await self._seek(at, self._follower.begin_again(at))

    async def fetched(self, at: Partition) -> int:
        """The offset from which on nothing of the partition was fetched yet; 0 where unknown."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await self._app.consumer.position(self._place(at)) or 0
        except IllegalStateError:
            return 0  # not assigned just now

    async def _follow(self, stream: StreamT[bytes]) -> None:
        try:
            async for event in stream.events():
                await self._take(event)
        except Exception as error:
            log.exception("live_metrics.failed")
            self.failure = error
            raise

    async def _take(self, event: EventT[bytes]) -> None:
        """One record: judged, counted, or read again."""
        message = event.message
        at = Partition(self._contexts[message.topic], message.partition)
        record = _stored_record(message)
        while True:
            try:
                fact = self._follower.take(at, record)
                break
            except Unavailable as error:  # the registry: nothing is known about the bytes yet
                self.trouble = str(error)
                await asyncio.sleep(RETRY_S)
        self.trouble = None
        if fact is not None:
            figures = self._figures(at, fact)
            if figures is not None:
                self._add(at, fact.recorded_at.timestamp(), figures)
        elif self._follower.hole(at):
            log.warning("live_metrics.hole", partition=str(at), offset=message.offset)
            await self._seek(at, self._follower.reread(at))

    def _figures(self, at: Partition, fact: Fact) -> Figures | None:
        """What the event adds to windows that are kept, or may be soon."""
        figures = figures_of(fact, self._open[at].placed_at(fact))
        now = self._now()
        if now - KEPT_S - SIZE_S < fact.recorded_at.timestamp() < now + LATE_S_MAX:
            return figures
        self._follower.counts["out_of_time"] += 1
        return None

    def _add(self, at: Partition, time: float, figures: Figures) -> None:
        """Add to every window of the partition that holds the time."""
        self._time = time
        self._windows[str(at)].apply(plus, figures)

    def _next_offset(self, tp: TP) -> int:
        return self._follower.next_offset(Partition(self._contexts[tp.topic], tp.partition))

    def _place(self, at: Partition) -> TP:
        return TP(self._topics[at.context], at.number)

    def _unreadable(self, tp: TP, offset: int) -> None:
        if offset <= self._passed.get(tp, -1):
            return  # counted before, here or by the rebuild
        self._passed[tp] = offset
        self._follower.counts["unreadable"] += 1
        log.warning("live_metrics.unreadable", topic=tp.topic, partition=tp.partition, at=offset)

    async def _seek(self, at: Partition, offset: int) -> None:
        try:
            await self._app.consumer.seek_wait({self._place(at): offset})
        except IllegalStateError:
            # Not assigned just now: once it is, Faust asks for the same offset.
            log.warning("live_metrics.not_assigned", partition=str(at))

    def _forget(self) -> None:
        """Drop the windows that ended long ago."""
        oldest = self._now() - KEPT_S
        ended = [key for key in self._table.data if key[1][0] + SIZE_S < oldest]
        for key in ended:
            del self._table.data[key]


def _stored_record(message: Any) -> StoredRecord:
    return StoredRecord(message.offset, message.key, message.value, list(message.headers or ()))


def log_start(now: float, context: str) -> datetime:
    """The log time from which on a context's events count for the windows that are kept now."""
    oldest = now - KEPT_S - SIZE_S - LATE_S_MAX
    if context == ORDERS.name:  # an order that is confirmed now may have been placed as long ago
        oldest -= DURATION_S_MAX
    return datetime.fromtimestamp(oldest, UTC)


def _faust_app(settings: Settings) -> faust.App:
    name = f"{settings.topic_prefix}tidelog-live-metrics-{settings.instance}"
    servers = settings.kafka_bootstrap_servers.split(",")
    return faust.App(
        name,
        broker=[f"kafka://{server.strip()}" for server in servers],
        broker_credentials=_credentials(python_connection()),
        datadir=Path(settings.state_dir) / "faust",
        store="memory://",
        autodiscover=False,
        # Ours serves health, metrics and the windows.
        web_enabled=False,
        # It makes no topics: not the log's, and it needs none of its own.
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=max(settings.session_timeout_ms / 4000, 0.25),
        broker_request_timeout=max(REQUEST_TIMEOUT_S, settings.session_timeout_ms / 1000),
        # Every process reads the whole log: a group of its own, with a fixed member.
        consumer_group_instance_id=name,
        stream_buffer_maxsize=BUFFERED_RECORDS_MAX,
        # What was not taken in is read again: there is nothing to wait for.
        stream_wait_empty=False,
        loghandlers=[],
    )


def _credentials(
    connection: Mapping[str, Any],
) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Who we are, in Faust's own form; its producer and its other clients go by it."""
    context = connection.get("ssl_context")
    if "sasl_mechanism" in connection:
        return faust.SASLCredentials(
            username=connection["sasl_plain_username"],
            password=connection["sasl_plain_password"],
            mechanism=connection["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
