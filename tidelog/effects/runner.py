"""A process of effects: events come in on threads, and the work is done on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from tidelog.codec import Codec
from tidelog.effects.definition import Bulkhead, Reference
from tidelog.effects.intake import WorkIntake
from tidelog.effects.movements import Movements, follow
from tidelog.effects.work_store import WorkStore
from tidelog.effects.worker import Worker, forget_ended, watch_depth
from tidelog.feeder import Feeder
from tidelog.http.ports import ReadinessCheck
from tidelog.kafka.reader import existing_topics, read_topics
from tidelog.kafka.topics import admin_client
from tidelog.lanes import LaneOptions, LiveLane
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.settings import Settings

CALLS_PER_ATTEMPT_MAX = 4
STOP_TIMEOUT_S = 10.0
TABLES_S = 0.1
TROUBLE_S = 1.0

log = get_logger(__name__)


class EffectRunner:
    """Runs effects. `life` begins and ends it; `problems` any thread may ask for.

    `name` names its consumer group and its positions, for good. An attempt may take `attempt_s`
    seconds; without it, as long as several calls of `effect_timeout_ms`. The work of events older
    than `age_max` is not begun.
    """

    def __init__(  # noqa: PLR0913 - what makes a process of effects, each by its name
        self,
        bulkheads: Sequence[Bulkhead],
        movements: Sequence[Movements],
        contexts: Sequence[Context],
        settings: Settings,
        *,
        codec: Codec,
        name: str = "effects",
        references: Sequence[Reference] = (),
        attempt_s: float | None = None,
        age_max: timedelta | None = None,
    ) -> None:
        self._effects = [effect for bulkhead in bulkheads for effect in bulkhead.effects]
        self._bulkheads, self._movements = bulkheads, movements
        self._fault = "starting"
        self._kept_days = settings.effect_ended_kept_days
        kinds = {effect.event for effect in self._effects}
        kinds |= {reference.event for reference in references}
        heard = [context for context in contexts if kinds & set(context.event_types)]
        dsn, schema = settings.postgres_dsn, settings.postgres_schema
        self._store = WorkStore(contexts, dsn=dsn, schema=schema)
        calls_s = settings.effect_timeout_ms / 1000 * CALLS_PER_ATTEMPT_MAX
        self._attempt_s = calls_s if attempt_s is None else attempt_s
        self._lease_s = max(settings.effect_lease_ms / 1000, self._attempt_s * 1.5)
        admin = admin_client(settings.kafka_bootstrap_servers)
        intake = WorkIntake(
            name, self._effects, references, heard, dsn=dsn, schema=schema, age_max=age_max
        )
        self._feeder = Feeder(
            intake.source,
            1,
            label=name,
            store=intake,
            topics=partial(read_topics, admin, heard, settings.topic_prefix),
            decisions={},
            batch_events_max=settings.projection_batch_events_max,
            queue_events_max=settings.projection_queue_events_max,
        )
        self._live = LiveLane(
            heard,
            codec,
            LaneOptions(
                bootstrap_servers=settings.kafka_bootstrap_servers,
                topic_prefix=settings.topic_prefix,
                group=f"{settings.topic_prefix}tidelog-{name}",
                instance=settings.instance,
                session_timeout_ms=settings.session_timeout_ms,
                batch_events_max=settings.projection_batch_events_max,
            ),
            prepare=codec.prepare,
            topics=partial(existing_topics, admin, heard, settings.topic_prefix),
        )

    def problems(self) -> Mapping[str, Sequence[str]]:
        """What is wrong, by part; a part without trouble has an empty list."""
        return {
            "effects": self._feeder.problems(),
            "log": self._live.problems(),
            "workers": [self._fault] if self._fault else [],
        }

    def checks(self) -> list[ReadinessCheck]:
        """The same for /readyz, a line for each part."""
        return [
            ReadinessCheck.of(part, partial(self._problems_of, part)) for part in self.problems()
        ]

    def _problems_of(self, part: str) -> Sequence[str]:
        return self.problems()[part]

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Run for as long as the context lasts; what is in hand at its end may end."""
        threads = [
            threading.Thread(target=self._live.run, name="lane-live", daemon=True),
            threading.Thread(target=self._feeder.run, name=self._feeder.name, daemon=True),
        ]
        self._live.feed([self._feeder])
        for thread in threads:
            thread.start()
        working = asyncio.create_task(self._work())
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self._live.stop()
            self._feeder.stop()
            for thread in threads:
                await asyncio.to_thread(thread.join, STOP_TIMEOUT_S)
                if thread.is_alive():
                    log.error("effect.did_not_stop", thread=thread.name)

    async def _work(self) -> None:
        while not self._feeder.opened:  # it makes the tables
            await asyncio.sleep(TABLES_S)
        await self._store.open()
        works = [
            *(partial(self._run_worker, bulkhead) for bulkhead in self._bulkheads),
            *(partial(follow, self._store, each) for each in self._movements),
            partial(watch_depth, self._store, self._effects),
            partial(forget_ended, self._store, self._kept_days),
        ]
        try:
            await again_and_again(works, self._tell)
        finally:
            await self._store.close()

    async def _run_worker(self, bulkhead: Bulkhead) -> None:
        worker = Worker(self._store, bulkhead, attempt_s=self._attempt_s, lease_s=self._lease_s)
        await worker.run()

    def _tell(self, fault: str) -> None:
        self._fault = fault


async def again_and_again(
    works: Sequence[Callable[[], Coroutine[Any, Any, None]]],
    told: Callable[[str], None],
    pause_s: float = TROUBLE_S,
) -> None:
    """Do all of these at once, until cancelled; where one fails all are begun anew after a pause.

    `told` hears what has failed, and the empty text when they are begun: a fault of ours is shown,
    and costs no more than the pause.
    """
    while True:
        told("")
        try:
            async with asyncio.TaskGroup() as group:
                for work in works:
                    group.create_task(work())
        except ExceptionGroup as failed:
            error = failed.exceptions[0]
            told(f"{type(error).__name__}: {error}")
            log.error("effect.failed_and_begins_anew", exc_info=failed)
        await asyncio.sleep(pause_s)
