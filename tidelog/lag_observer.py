"""Looks at the database and at the log, and says how far every read model is behind.

It asks no projector: the answer is exact also when every one of them is dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tidelog.definitions import AnyProjection
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.kafka.ends import LogEnds
from tidelog.lag import (
    GenerationLag,
    LagHistory,
    LogView,
    StoredGeneration,
    StoredPosition,
    measure,
)
from tidelog.postgres.lag_store import LagStore
from tidelog.settings import Settings

CACHE_S = 1.0


class LagObserver:
    """Measures the lag of all read models. Any thread may ask; one looks at a time."""

    def __init__(
        self,
        projections: Sequence[AnyProjection],
        settings: Settings,
        *,
        cache_s: float = CACHE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._declared: Mapping[str, AnyProjection] = {each.name: each for each in projections}
        self._store = LagStore(dsn=settings.postgres_dsn, schema=settings.postgres_schema)
        self._ends = LogEnds(
            bootstrap_servers=settings.kafka_bootstrap_servers, topic_prefix=settings.topic_prefix
        )
        self._history = LagHistory()
        self._cache_s = cache_s
        self._now = now
        self._seen: tuple[float, list[GenerationLag]] | None = None
        self._lock = threading.Lock()

    def look(self) -> list[GenerationLag]:
        """Every generation's lag, at most `cache_s` old. Raises Unavailable.

        Positions are read before the ends, so that no lag comes out smaller than it was.
        """
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] >= self._cache_s:
                self._seen = (time.monotonic(), self._measure())
            return self._seen[1]

    def close(self) -> None:
        """Release the connections."""
        with self._lock:
            self._store.close()
            self._ends.close()

    def _measure(self) -> list[GenerationLag]:
        generations = self._with_what_is_to_come(self._store.generations())
        places = {
            (at, position.progress)
            for each in generations
            for at, position in each.positions.items()
        }
        return measure(
            generations,
            self._log(places),
            self._history,
            {name: each.version for name, each in self._declared.items()},
        )

    def _log(self, places: set[tuple[Partition, Progress]]) -> LogView:
        ends = self._ends.sequences(sorted({at for at, _ in places}))
        behind = [(at, progress) for at, progress in places if ends[at] > progress.sequence]
        times = self._ends.times_after(behind)
        return LogView(self._now(), ends, times, self._ends.held_s())

    def _with_what_is_to_come(self, stored: Sequence[StoredGeneration]) -> list[StoredGeneration]:
        """The generations, and an empty one for each projection that no projector has begun.

        A generation without positions, because its bulk load is not through, misses everything.
        """
        known = {each.projection for each in stored}
        never = [_empty(each) for name, each in self._declared.items() if name not in known]
        return [self._with_positions(each) for each in (*stored, *never)]

    def _with_positions(self, stored: StoredGeneration) -> StoredGeneration:
        projection = self._declared.get(stored.projection)
        if stored.positions or projection is None:
            return stored
        contexts = [context.name for context in projection.contexts]
        nothing = StoredPosition(Progress(), 0.0)
        positions = dict.fromkeys(self._ends.partitions(contexts), nothing)
        return replace(stored, positions=positions)


def _empty(projection: AnyProjection) -> StoredGeneration:
    return StoredGeneration(
        projection=projection.name,
        version=projection.version,
        number=0,
        serving=False,
        state="live",
        feeders=0,
        watchers=0,
        parked=0,
        positions={},
    )
