"""A projector: one projection fed live from the log, on one thread, until it is told to stop.

Batches adapt by themselves: an idle log hands over one event at once, a log that is behind hands
over as many as a batch may hold. Faults of the world are retried for ever, with a pause that grows
to a bound; faults of the log or of the fold stop their partition and are shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidelog.engine.folding import Partition
from tidelog.engine.ports import MessageCodec
from tidelog.engine.projecting import (
    ProjectionLoop,
    ProjectionStore,
    Report,
    TopicInfo,
)
from tidelog.errors import TidelogError, TopicRecreated
from tidelog.kafka.reader import Assignment, BatchReader, Polled
from tidelog.logging import get_logger
from tidelog.projection import Projection
from tidelog.projection_metrics import ProjectionMetrics

POLL_S = 0.2
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0
TOPIC_CHECK_S = 15.0

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProjectorOptions:
    """Where a projector reads and how much it takes at once."""

    bootstrap_servers: str
    topic_prefix: str
    instance: str
    session_timeout_ms: int
    batch_events_max: int


class Projector:
    """Runs one projection. `run` is a thread's target; everything else may be called from others.

    `prepare` is called before the first read (it may raise Unavailable); `topics` looks up the id
    and partition count of each context's event topic.
    """

    def __init__(
        self,
        projection: Projection[Any, Any],
        *,
        codec: MessageCodec,
        store: ProjectionStore,
        prepare: Callable[[], None],
        topics: Callable[[], Mapping[str, TopicInfo]],
        options: ProjectorOptions,
    ) -> None:
        self.projection = projection
        self._codec = codec
        self._store = store
        self._prepare = prepare
        self._topics = topics
        self._metrics = ProjectionMetrics(projection.name)
        self._options = options
        self._stopping = threading.Event()
        self._trouble: str | None = "starting"
        self._reader: BatchReader | None = None
        self._loop: ProjectionLoop | None = None
        self._known: Mapping[str, TopicInfo] = {}
        self._checked_at = 0.0
        self._pause_s = PAUSE_S_MIN

    @property
    def name(self) -> str:
        """The projection's name."""
        return self.projection.name

    def problems(self) -> list[str]:
        """Why it is not ready, each with its cure; empty where all is well."""
        loop = self._loop
        found = [self._trouble] if self._trouble else []
        if loop is not None:
            red = [*loop.stopped.copy().values(), *loop.forks.copy().values()]
            found += [str(error) for error in red]
        return found

    def positions(self) -> dict[Partition, int]:
        """The sequence up to which each assigned partition is folded in."""
        loop = self._loop
        if loop is None:
            return {}
        return {at: progress.sequence for at, progress in loop.progress.copy().items()}

    def stop(self) -> None:
        """Finish the batch in hand, then leave."""
        self._stopping.set()

    def run(self) -> None:
        """Fold until stopped."""
        try:
            while not self._stopping.is_set():
                try:
                    self._work()
                except TopicRecreated as error:
                    self._give_up(error)
                except Exception as error:  # it may pass: retry, and show it
                    self._wait_after(error)
        finally:
            self._close()

    # --- the loop ---------------------------------------------------------------------------

    def _work(self) -> None:
        if self._reader is None or self._loop is None:
            self._start()
            return
        if time.monotonic() - self._checked_at > TOPIC_CHECK_S:
            self._check_topics()
        polled = self._reader.poll(self._options.batch_events_max, POLL_S)
        self._meet_troubles(polled, self._loop)
        if polled.batch:
            self._fold(polled, self._loop)
        self._measure(polled, self._loop)
        if self._reader.joined:
            self._recovered()

    def _fold(self, polled: Polled, loop: ProjectionLoop) -> None:
        began = time.perf_counter()
        try:
            report = loop.step(polled.batch)
        except Exception:
            # What became of the batch is uncertain: the store knows.
            self._resync_until_stopped(loop)
            raise
        self._tell(report, time.perf_counter() - began, loop)
        if report.failures and not report.stopped:
            self._stopping.wait(self._next_pause())

    def _resync_until_stopped(self, loop: ProjectionLoop) -> None:
        while not self._stopping.is_set():
            try:
                loop.resync()
                return
            except TopicRecreated:
                raise
            except Exception as error:  # it may pass: retry, and show it
                self._wait_after(error)

    def _start(self) -> None:
        """Check the log, make the tables, join the group."""
        self._prepare()
        self._known = self._topics()
        self._checked_at = time.monotonic()
        self._store.open(self._known)
        options, version = self._options, self.projection.version
        reader = BatchReader(
            bootstrap_servers=options.bootstrap_servers,
            group=f"{options.topic_prefix}tidelog-projection-{self.name}-v{version}",
            client_id=f"projectors-{options.instance}-{self.name}",
            contexts=self.projection.contexts,
            topic_prefix=options.topic_prefix,
            session_timeout_ms=options.session_timeout_ms,
            assignment=Assignment(
                assigned=self._assigned,
                released=self._released,
            ),
        )
        self._reader = reader
        self._loop = ProjectionLoop(self.projection, self._codec, self._store, reader)
        self._trouble = "joining the group"

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        assert self._loop is not None, "the reader polls only once the loop is there"
        return self._loop.assigned(partitions)

    def _released(self, partitions: Sequence[Partition]) -> None:
        loop = self._loop
        if loop is None:
            return
        loop.released(partitions)
        self._metrics.released(partitions)
        self._metrics.stopped(len(loop.stopped))

    def _check_topics(self) -> None:
        """A topic that is deleted and made again has another id: never fold the two into one."""
        topics = self._topics()
        self._checked_at = time.monotonic()
        for context, topic in topics.items():
            if topic.id != self._known[context].id:
                raise TopicRecreated(
                    f"The events topic of {context} was deleted and made again while "
                    f"{self.name} read it. Restore the topic, or rebuild the projection."
                )

    # --- what goes wrong --------------------------------------------------------------------

    def _meet_troubles(self, polled: Polled, loop: ProjectionLoop) -> None:
        for partition, error in polled.troubles.items():
            self._metrics.count_error(error)
            if error.retry:
                self._checked_at = 0.0  # the topic may be gone: look at once
            elif partition in loop.progress:
                loop.stop_partition(partition, error)
                self._tell_stopped({partition: error}, loop)

    def _wait_after(self, error: Exception) -> None:
        kind = self._metrics.count_error(error)
        self._trouble = f"{kind}: {error}"
        expected = isinstance(error, TidelogError)
        log.warning(
            "projection.waits",
            projection=self.name,
            reason=str(error),
            pause_s=round(self._pause_s, 2),
            exc_info=None if expected else error,
        )
        self._stopping.wait(self._next_pause())

    def _give_up(self, error: TopicRecreated) -> None:
        """The log is another one: nothing here may go on until a person has decided."""
        self._metrics.count_error(error)
        self._trouble = str(error)
        log.error("projection.refuses", projection=self.name, reason=str(error))
        self._close()
        self._stopping.wait()

    def _next_pause(self) -> float:
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, PAUSE_S_MAX)
        return pause

    def _recovered(self) -> None:
        if self._trouble is not None:
            log.info("projection.runs", projection=self.name)
        self._trouble, self._pause_s = None, PAUSE_S_MIN

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        self._store.close()

    # --- what is told -----------------------------------------------------------------------

    def measure_lag(self, ends: Mapping[Partition, int]) -> None:
        """Take in how far the log goes, which somebody else has looked up."""
        self._metrics.lags(self.positions(), ends)

    def _tell(self, report: Report, seconds: float, loop: ProjectionLoop) -> None:
        self._metrics.count(report, seconds)
        if report.overtaken:
            log.info("projection.overtaken", projection=self.name)
        for parked in report.parked:
            log.error(
                "projection.parked",
                projection=self.name,
                partition=str(parked.partition),
                offset=parked.record.offset,
                fork=parked.fork,
                reason=parked.reason,
            )
        for hole in report.holes:
            log.warning("projection.hole", projection=self.name, hole=str(hole))
        for failure in report.failures.values():
            log.error(
                "projection.fold_failed",
                projection=self.name,
                key=failure.key,
                position=failure.fact.position,
                exc_info=failure.error,
            )
        self._tell_stopped(report.stopped, loop)

    def _tell_stopped(
        self, stopped: Mapping[Partition, TidelogError], loop: ProjectionLoop
    ) -> None:
        for partition, error in stopped.items():
            log.error(
                "projection.partition_stopped",
                projection=self.name,
                partition=str(partition),
                reason=str(error),
            )
        self._metrics.stopped(len(loop.stopped))

    def _measure(self, polled: Polled, loop: ProjectionLoop) -> None:
        reached = {at: loop.progress[at].sequence for at in polled.batch if at in loop.progress}
        ended = [at for at in polled.ends if at in loop.progress and at not in loop.stopped]
        self._metrics.reached(reached, ended)
