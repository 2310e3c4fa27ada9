"""The live windows of the shop: `python -m projectors.live_metrics`, configured by settings.

A Faust app counts orders, revenue, refusals and durations of sagas over hopping windows of log
time, and `GET /windows` says what they are. The process keeps nothing on disk: it rebuilds the
windows from the log when it starts, and is ready as soon as they are whole.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from projectors.live.app import LiveApp, log_start
from projectors.live.figures import HOP_S, SIZE_S, document, instant
from projectors.live.follower import Follower
from projectors.live.last_events import LastEvents
from projectors.live.metrics import LiveMetricsCollector
from projectors.live.transport import LogTransport
from schemas.inventory import INVENTORY
from schemas.orders import ORDERS
from schemas.payments import PAYMENTS
from tidelog import __version__
from tidelog.codec import Codec
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import EventReader, Partition
from tidelog.errors import TopicRecreated, Unavailable
from tidelog.http.ports import ReadinessCheck
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.kafka.reader import read_topics
from tidelog.kafka.topics import admin_client
from tidelog.logging import get_logger
from tidelog.position import Position, format_token
from tidelog.registry import RegistryClient
from tidelog.settings import Settings

CONTEXTS: Final = (ORDERS, INVENTORY, PAYMENTS)

Topics = dict[str, TopicInfo]
Beginnings = dict[Partition, Progress]

WATCH_INTERVAL_S: Final = 5.0
"""How often the end of the log is looked up: a partition that stands still is read again."""

RETRY_S: Final = 1.0
STOP_TIMEOUT_S: Final = 15.0

CHATTY: Final = ("aiokafka", "faust", "mode", "projectors.live.transport")
"""Loggers that tell at level info of every step of a start; the last is Faust's name for ours."""

log = get_logger("live_metrics")


def main(transport: type[LogTransport] = LogTransport) -> int:
    """Count until a signal; 0 after a clean stop, 1 if it could not start or go on."""
    counting: list[LiveMetrics] = []

    def build(settings: Settings) -> Service:
        for library in CHATTY:
            logging.getLogger(library).setLevel(logging.WARNING)
        live = LiveMetrics(
            settings, give_up=lambda: signal.raise_signal(signal.SIGTERM), transport=transport
        )
        counting.append(live)
        return service(live, settings)

    return serve("live_metrics", build) or int(any(live.failed for live in counting))


def service(live: LiveMetrics, settings: Settings) -> Service:
    """The windows over HTTP, beside health and metrics."""

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        counting = asyncio.create_task(live.run())
        try:
            yield
        finally:
            counting.cancel()
            await asyncio.wait({counting})

    async def problem() -> str | None:
        return live.problem

    async def read_windows(_: Request) -> Response:
        return Response(live.document(), media_type="application/json")

    return build_service(
        name="live_metrics",
        version=__version__,
        routes=[Route("/windows", read_windows)],
        checks=[ReadinessCheck(name="live_windows", check=problem)],
        lifespan=life,
        instance=settings.instance,
    )


class LiveMetrics:
    """The life of the Faust app: found its place, started, watched, stopped.

    `give_up` is called once, where it cannot go on: a new process begins with a fresh look.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        give_up: Callable[[], None],
        transport: type[LogTransport],
    ) -> None:
        self.failed = False
        self._give_up = give_up
        self._transport = transport
        self._settings = settings
        self._admin = admin_client(settings.kafka_bootstrap_servers)
        self._waits_for: str | None = "it has not begun yet"
        self._end_unknown: str | None = None
        self._whole = False
        self._follower: Follower | None = None
        self._app: LiveApp | None = None

    @property
    def problem(self) -> str | None:
        """Why the windows are not whole, or None."""
        if self._follower is None or self._app is None:
            return self._waits_for
        problems = self._follower.problems()
        problems += filter(None, (self._app.trouble, self._end_unknown))
        if not self._whole:
            problems.append("the windows are being counted from the log")
        return "; ".join(problems) or None

    def document(self) -> bytes:
        """Every window in which something happened, as JSON; Unavailable until they are whole."""
        if not self._whole or self._app is None or self._follower is None:
            raise Unavailable("The live windows are being counted from the log. Try again soon.")
        positions = [
            Position(*at, progress.sequence)
            for at, progress in self._follower.progress().items()
            if progress.sequence > 0
        ]
        windows = self._app.windows()
        return msgspec.json.encode(
            {
                "position": format_token(positions),
                "as_of": instant(int(time.time())),
                "complete": not self._follower.problems(),
                "size_seconds": SIZE_S,
                "hop_seconds": HOP_S,
                "windows": [document(start, windows[start]) for start in sorted(windows)],
            }
        )

    async def run(self) -> None:
        """Count until cancelled. A fault that does not heal ends the process, to begin anew."""
        try:
            await self._run()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("live_metrics.stopped")
            self.failed = True
            self._give_up()

    async def _run(self) -> None:
        settings = self._settings
        registry = RegistryClient(settings.registry_url)
        codec = Codec(CONTEXTS, registry, settings.topic_prefix)
        reader = EventReader(CONTEXTS, codec)
        last_events = LastEvents(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            topic_prefix=settings.topic_prefix,
            reader=reader,
        )
        try:
            topics, beginnings = await self._begun(codec, last_events)
            follower = self._follower = Follower(reader, beginnings)
            app = LiveApp(settings, follower, [*topics], now=time.time, transport=self._transport)
            with LiveMetricsCollector(follower, app).registered():
                began = time.monotonic()
                await asyncio.to_thread(app.rebuild, last_events.records)
                seconds = round(time.monotonic() - began, 3)
                log.info("live_metrics.rebuilt", events=follower.counts["taken"], seconds=seconds)
                await app.start()
                self._app = app
                try:
                    await self._watch(app, follower, last_events, topics)
                finally:
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await app.stop()
        finally:
            last_events.close()
            registry.close()

    async def _begun(self, codec: Codec, last_events: LastEvents) -> tuple[Topics, Beginnings]:
        """The topics, and the last events before the oldest window, once they can be had."""

        def begin() -> tuple[Topics, Beginnings]:
            codec.prepare()  # so that today's schemas are known, and reading asks nobody
            topics = self._topics()
            now = time.time()
            times = {
                Partition(context, number): log_start(now, context)
                for context, topic in topics.items()
                for number in range(topic.partitions)
            }
            return topics, last_events.before(times)

        while True:
            try:
                return await asyncio.to_thread(begin)
            except Unavailable as error:
                self._waits_for = str(error)
                log.warning("live_metrics.waits", reason=str(error))
                await asyncio.sleep(RETRY_S)

    def _topics(self) -> Topics:
        return read_topics(self._admin, CONTEXTS, self._settings.topic_prefix)

    async def _watch(
        self, app: LiveApp, follower: Follower, last_events: LastEvents, topics: Topics
    ) -> None:
        """Look at the end of the log again and again; read again what stands still before it."""

        def look() -> dict[Partition, Progress]:
            if self._topics() != topics:
                raise TopicRecreated("the topics are not those that the windows were counted from")
            return last_events.ends([*follower.progress()])

        goal: dict[Partition, Progress] | None = None
        before, waiting = dict[Partition, Progress](), set[Partition]()
        while True:
            try:
                ends = await asyncio.to_thread(look)
                self._end_unknown = None
            except Unavailable as error:
                log.warning("live_metrics.end_unknown", reason=str(error))
                ends, self._end_unknown = {}, str(error)
            goal = goal or ends or None
            now = follower.progress()
            still = {
                at
                for at, end in ends.items()
                if end.sequence > now[at].sequence and now[at] == before.get(at)
            }
            for at in still & waiting if now != before else still:
                log.warning("live_metrics.stands_still", partition=str(at), at=now[at].sequence)
                await app.read_again(at)
            # Fetched up to its end, it has until the next look; before that it waits its turn.
            waiting = {at for at in still if await app.fetched(at) > ends[at].offset}
            before = now
            await self._pause(app, follower, goal)

    async def _pause(
        self, app: LiveApp, follower: Follower, goal: dict[Partition, Progress] | None
    ) -> None:
        """Wait for the next look; meanwhile notice that Faust gave up, or that it is at the end."""
        until = time.monotonic() + WATCH_INTERVAL_S
        while time.monotonic() < until:
            if app.crashed:
                raise Unavailable("Faust has given up")
            if not self._whole and goal is not None:
                now = follower.progress()
                self._whole = all(now[at].sequence >= end.sequence for at, end in goal.items())
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
