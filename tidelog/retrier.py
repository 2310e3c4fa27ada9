"""The retrier: tries parked keys again when they are due, decided on, or asked for by a person.

One thread per process; any number of processes share the work, for each claims what it tries. It
also reads people's decisions, which the live folds of this process see in the same moment, and has
every generation heed them before anything is retried.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tidelog.definitions import AnyProjection
from tidelog.engine.ports import MessageCodec
from tidelog.engine.reading import EventReader
from tidelog.engine.retrying import Outcome, Retried, Retrier
from tidelog.errors import TidelogError, Unavailable
from tidelog.heeder import Heeder
from tidelog.kafka.decisions import DecisionLog
from tidelog.kafka.span_facts import SpanFacts
from tidelog.kafka.spans import SpanReader
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.parking import pause_after
from tidelog.parking_metrics import ParkingMetrics
from tidelog.postgres.parked_board import ParkedBoard
from tidelog.postgres.parked_keys import PostgresParkedStore
from tidelog.postgres.tables import Generation
from tidelog.projection import Projection
from tidelog.settings import Settings

TICK_S = 0.5
MEASURE_EVERY_S = 5.0
REVIEW_EVERY_S = 60.0
PAUSE_S_MAX = 10.0

log = get_logger(__name__)


class ParkingLoop:
    """Retries the parked keys of some projections. `run` is a thread's target.

    `contexts` are those that the projections read, at least; `codec` knows them. Nobody but this
    thread refreshes `decisions`.
    """

    def __init__(
        self,
        projections: Sequence[AnyProjection],
        *,
        settings: Settings,
        contexts: Sequence[Context],
        codec: MessageCodec,
        decisions: DecisionLog,
    ) -> None:
        self._projections: dict[tuple[str, int], Projection[Any, Any]] = {
            (each.name, each.version): each for each in projections if isinstance(each, Projection)
        }
        self._settings = settings
        self._contexts = [context.name for context in contexts]
        self._events = EventReader(contexts, codec)
        self.decisions = decisions
        self._board = ParkedBoard(dsn=settings.postgres_dsn, schema=settings.postgres_schema)
        self._heeder = Heeder(
            {(each.name, each.version): each for each in projections},
            settings=settings,
            decisions=decisions,
            board=self._board,
        )
        self._metrics = ParkingMetrics(name for name, _ in self._projections)
        self._stopping = threading.Event()
        self._woken = False
        self._measure_at = 0.0
        self._review_at = 0.0
        self._trouble: str | None = None
        self._reader: SpanReader | None = None

    def problems(self) -> list[str]:
        """Why nothing is retried, or a decision not heeded; empty where all is well."""
        return ([self._trouble] if self._trouble else []) + self._heeder.problems()

    def stop(self) -> None:
        """End the retry in hand where it stands, then leave."""
        self._stopping.set()

    def run(self) -> None:
        """Retry until stopped; what cannot be reached now is asked again."""
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                self._tick()
                self._trouble, pause_s = None, TICK_S
            except Exception as error:  # it may pass: try again, and show it
                self._trouble = f"{type(error).__name__}: {error}"
                expected = isinstance(error, TidelogError)
                log.warning(
                    "parking.waits", reason=str(error), exc_info=None if expected else error
                )
                pause_s = min(max(pause_s, TICK_S) * 2, PAUSE_S_MAX)
        self._board.close()
        self.decisions.close()
        if self._reader is not None:
            self._reader.close()

    # --- one round ----------------------------------------------------------------------------

    def _tick(self) -> None:
        self._read_decisions()
        self._heeder.heed(self._facts())
        if not self._woken:
            # A start may bring mended code.
            woken = self._board.wake(self._projections)
            self._woken = True
            if woken:
                log.info("parking.tries_all", keys=woken)
        self._retry_due()
        now = time.monotonic()
        if now >= self._measure_at:
            self._metrics.tell(self._board.summary(self._projections))
            self._measure_at = now + MEASURE_EVERY_S
        if now >= self._review_at:
            self._review_strays()
            self._review_at = now + REVIEW_EVERY_S

    def _read_decisions(self) -> None:
        for each in self.decisions.refresh():
            self._metrics.decided(each.projection)
            log.info(
                "projection.decided",
                projection=each.projection,
                version=each.version,
                position=f"{each.partition}:{each.sequence}",
                decision="discard" if each.decision.event is None else "edit",
            )

    def _retry_due(self) -> None:
        """Retry what is due, until nothing is."""
        stores: dict[Generation, PostgresParkedStore] = {}
        try:
            while not self._stopping.is_set():
                claimed = self._board.claim(self._projections)
                for generation, key in claimed:
                    if self._stopping.is_set():
                        return
                    self._retry(generation, key, stores)
                if not claimed:
                    return
        finally:
            for store in stores.values():
                store.close()

    def _retry(
        self, generation: Generation, key: str, stores: dict[Generation, PostgresParkedStore]
    ) -> None:
        name, version, number = generation
        projection = self._projections[name, version]
        decisions = self.decisions.decisions_for(name, version)
        store = stores.get(generation)
        if store is None:
            store = stores[generation] = PostgresParkedStore(
                projection,
                dsn=self._settings.postgres_dsn,
                schema=self._settings.postgres_schema,
                generation=number,
                decisions=decisions,
            )
        try:
            retried = Retrier(projection, store, self._facts(), decisions).retry(key)
        except Unavailable:
            self._board.release(generation, key)
            raise
        except Exception as error:  # a fault of this key's retry must not hold up the others
            log.error("projection.retry_broke", projection=name, key=key, exc_info=error)
            return
        self._tell(name, retried)

    def _facts(self) -> SpanFacts:
        return SpanFacts(self._span_reader(), self._events, self._stopping)

    def _span_reader(self) -> SpanReader:
        if self._reader is None:
            self._reader = SpanReader(
                bootstrap_servers=self._settings.kafka_bootstrap_servers,
                topic_prefix=self._settings.topic_prefix,
                client_id=f"tidelog-retrier-{self._settings.instance}",
            )
        return self._reader

    # --- what is told -------------------------------------------------------------------------

    def _tell(self, name: str, retried: Retried) -> None:
        self._metrics.retried(name, retried)
        told: Callable[..., None] = log.info
        fields: dict[str, Any] = {"projection": name, "key": retried.key, "events": retried.folded}
        if retried.halt is not None and retried.halt.error is not None:
            last = pause_after(retried.attempts) is None
            told = log.error if last else log.warning
            fields |= {
                "position": retried.halt.fact.position,
                "attempts": retried.attempts,
                "reason": f"{type(retried.halt.error).__name__}: {retried.halt.error}",
                "waits_for": "a person" if last else "the next attempt",
            }
        if retried.outcome is not Outcome.LOST:
            told(f"projection.key_{retried.outcome.value}", **fields)

    def _review_strays(self) -> None:
        """Parked records that have become readable are events after all: they are let go.

        No projection has passed one over: an event moves the progress, a record that is not ours
        does not, so the partition stood before it until it could be read.
        """
        after = ("", -1, -1)
        while strays := self._board.strays(self._contexts, after):
            for each in strays:
                fact = self._events.event(each.partition, each.record)
                if not isinstance(fact, str) and fact.sequence == each.after + 1:
                    self._board.forget(each)
                    log.info("projection.record_readable", position=fact.position)
            last = strays[-1]
            after = (*last.partition, last.record.offset)
