"""The sagas of a process: each hears its events on a thread, and others look after the rest.

Per saga one feed over the live lane, as read models have; one thread for what comes without an
event (deadlines, refusals, another try of what is parked); one that relays the outbox.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from confluent_kafka.admin import AdminClient
from prometheus_client import Counter, Gauge

from tidelog.codec import Codec
from tidelog.engine.reacting import Reactor
from tidelog.errors import TidelogError
from tidelog.feeder import Feeder
from tidelog.kafka.decisions import CONTEXT as OPERATIONS
from tidelog.kafka.outbox_relay import OutboxRelay, run_relay
from tidelog.kafka.reader import existing_topics, read_topics
from tidelog.kafka.topics import admin_client
from tidelog.lanes import LaneOptions, LiveLane
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.postgres.outbox import Depth
from tidelog.postgres.saga_decisions import SagaDecisionStore
from tidelog.postgres.saga_desk import SagaDesk
from tidelog.postgres.saga_store import SagaStore
from tidelog.saga import Saga
from tidelog.settings import Settings

DESK_S = 0.5
STOP_TIMEOUT_S = 10.0

log = get_logger(__name__)

_DONE = Counter(
    "tidelog_saga_desk_total",
    "What was done for instances without an event.",
    ["saga", "kind"],
)
_WAITING = Gauge(
    "tidelog_saga_waiting_instances",
    "Instances that wait for a person or another try: stuck, or parked.",
    ["saga"],
)
_OUTBOX_DEPTH = Gauge("tidelog_saga_outbox_commands", "Commands that wait to be sent.")
_OUTBOX_AGE = Gauge("tidelog_saga_outbox_age_seconds", "Age of the oldest command that waits.")
_OUTBOX_PARKED = Gauge(
    "tidelog_saga_outbox_parked", "Aggregates to which a command cannot be sent: they are parked."
)


class SagaRunner:
    """Runs sagas. `run` is a thread's target; everything else any thread may call."""

    def __init__(
        self,
        sagas: Sequence[Saga[Any]],
        contexts: Sequence[Context],
        settings: Settings,
        *,
        codec: Codec,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._reactors = {saga.name: Reactor(saga, contexts) for saga in sagas}
        self._stopping = threading.Event()
        self._relay_trouble = self._desk_trouble = "starting"
        dsn, schema = settings.postgres_dsn, settings.postgres_schema
        admin = admin_client(settings.kafka_bootstrap_servers)
        operations = [context for context in contexts if context.name == OPERATIONS]
        heard = [*_heard_contexts(sagas), *operations]
        self._live = LiveLane(
            heard,
            codec,
            LaneOptions(
                bootstrap_servers=settings.kafka_bootstrap_servers,
                topic_prefix=settings.topic_prefix,
                group=f"{settings.topic_prefix}tidelog-sagas",
                instance=settings.instance,
                session_timeout_ms=settings.session_timeout_ms,
                batch_events_max=settings.projection_batch_events_max,
            ),
            prepare=codec.prepare,
            topics=partial(existing_topics, admin, heard, settings.topic_prefix),
        )
        self.feeders = [
            self._feeder(SagaStore(reactor, dsn=dsn, schema=schema), settings, admin)
            for reactor in self._reactors.values()
        ]
        for context in operations:
            decided = SagaDecisionStore(self._reactors, context, dsn=dsn, schema=schema)
            self.feeders.append(self._feeder(decided, settings, admin))
        self._desk = SagaDesk(self._reactors, dsn=dsn, schema=schema)
        self._relay = OutboxRelay(
            contexts,
            codec,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            partitions=settings.partitions,
            topic_prefix=settings.topic_prefix,
            dsn=dsn,
            schema=schema,
            window_hours=settings.idempotency_window_hours,
        )

    def _feeder(
        self, store: SagaStore | SagaDecisionStore, settings: Settings, admin: AdminClient
    ) -> Feeder:
        source = store.source
        return Feeder(
            source,
            1,
            label=source.name,
            store=store,
            topics=partial(read_topics, admin, source.contexts, settings.topic_prefix),
            decisions={},
            batch_events_max=settings.projection_batch_events_max,
            queue_events_max=settings.projection_queue_events_max,
        )

    def problems(self) -> Mapping[str, Sequence[str]]:
        """What is wrong, by part; a part without trouble has an empty list."""
        found: dict[str, Sequence[str]] = {
            feeder.generation.projection: feeder.problems() for feeder in self.feeders
        }
        found["log"] = self._live.problems()
        found["outbox"] = [self._relay_trouble] if self._relay_trouble else []
        found["desk"] = [self._desk_trouble] if self._desk_trouble else []
        return found

    def stop(self) -> None:
        """Finish what is in hand, then leave."""
        self._stopping.set()

    def run(self) -> None:
        """Run until stopped."""
        threads = [
            threading.Thread(target=self._live.run, name="lane-live", daemon=True),
            threading.Thread(target=self._look_after, name="desk", daemon=True),
            threading.Thread(
                target=run_relay,
                args=(self._relay, self._stopping, _tell_depth, self._tell_relay),
                name="relay",
                daemon=True,
            ),
            *(
                threading.Thread(target=feeder.run, name=feeder.name, daemon=True)
                for feeder in self.feeders
            ),
        ]
        self._live.feed(self.feeders)
        for thread in threads:
            thread.start()
        self._stopping.wait()
        self._live.stop()
        for feeder in self.feeders:
            feeder.stop()
        for thread in threads:
            thread.join(STOP_TIMEOUT_S)
            if thread.is_alive():
                log.error("saga.did_not_stop", thread=thread.name)

    # --- the desk ---------------------------------------------------------------------------

    def _look_after(self) -> None:
        while not self._stopping.wait(DESK_S):
            if not all(feeder.opened for feeder in self.feeders):
                continue  # the tables are made by them
            try:
                for name in self._reactors:
                    self._look_after_one(name)
                self._desk_trouble = ""
            except TidelogError as error:  # it may pass: retry, and show it
                self._desk_trouble = str(error)
                log.warning("saga.desk_waits", reason=str(error))
            except Exception as error:  # a fault of ours: no deadline is kept without the desk
                self._desk_trouble = f"{type(error).__name__}: {error}"
                log.error("saga.desk_failed", exc_info=error)
        self._desk.close()

    def _look_after_one(self, name: str) -> None:
        now = self._now()
        for kind, work in (
            ("due", self._desk.remind),
            ("outcome", self._desk.settle_commands),
            ("parked", self._desk.retry),
        ):
            done = work(name, now)
            if done:
                _DONE.labels(name, kind).inc(done)
        _WAITING.labels(name).set(self._desk.waiting(name))

    def _tell_relay(self, trouble: str) -> None:
        if trouble and trouble != self._relay_trouble:
            log.warning("saga.relay_waits", reason=trouble)
        self._relay_trouble = trouble


def _tell_depth(depth: Depth) -> None:
    _OUTBOX_DEPTH.set(depth.commands)
    _OUTBOX_AGE.set(depth.age_s)
    _OUTBOX_PARKED.set(depth.parked)


def _heard_contexts(sagas: Sequence[Saga[Any]]) -> list[Context]:
    """The contexts whose events any of these hears, each once."""
    found = {context.name: context for saga in sagas for context in saga.contexts}
    return list(found.values())
