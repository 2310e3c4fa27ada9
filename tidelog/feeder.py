"""One generation's thread: it takes what its lane hands over, folds it and writes it.

Batches adapt by themselves: whatever is queued is one batch, so an idle log gives batches of one
and a log that is behind gives full ones. Faults of the world are retried for ever, with a pause
that grows to a bound; faults of an event or of the log are shown.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from tidelog.engine.folding import Decisions, Folder, revised
from tidelog.engine.judge import Progress
from tidelog.engine.log_stream import Run
from tidelog.engine.projecting import Feed, Report
from tidelog.engine.projection_store import ProjectionStore, TopicInfo
from tidelog.engine.reading import Partition
from tidelog.errors import DefinitionChanged, GenerationGone, TidelogError, TopicRecreated
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.postgres.tables import Generation
from tidelog.projection import Projection
from tidelog.projection_metrics import ProjectionMetrics

TAKE_S = 0.5
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0
# How often a projection that refuses to go on, or a partition that stands, is looked at again.
REFUSED_S = 2.0
STOPPED_S = 30.0

log = get_logger(__name__)


class Assigned(NamedTuple):
    """Partitions came to this process."""

    partitions: Sequence[Partition]


class Released(NamedTuple):
    """Partitions went to another process."""

    partitions: Sequence[Partition]


class Resume(NamedTuple):
    """Another lane delivers from now on: say what is needed."""


Message: TypeAlias = Assigned | Released | Resume


class FeedQueue:
    """What a lane hands to a feeder: messages and runs, in order. Any thread may use it.

    It is full from `events_max` events on; a run is put whole, so it may go beyond by one run.
    """

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._items: deque[Message | Run] = deque()
        self._events = 0
        self._changed = threading.Condition()

    @property
    def full(self) -> bool:
        """Whether it takes no more events."""
        return self._events >= self._events_max

    def put(self, items: Iterable[Message | Run]) -> None:
        """Append; the caller has looked whether it is full."""
        with self._changed:
            for item in items:
                self._items.append(item)
                if isinstance(item, Run):
                    self._events += len(item.facts)
            self._changed.notify_all()

    def take(self, events_max: int, wait_s: float) -> list[Message | Run]:
        """One message, or all runs up to the next message or the bound; waits for the first."""
        taken: list[Message | Run] = []
        with self._changed:
            if not self._items:
                self._changed.wait(wait_s)
            events = 0
            while self._items:
                item = self._items[0]
                size = len(item.facts) if isinstance(item, Run) else 0
                if taken and (not isinstance(item, Run) or events + size > events_max):
                    break
                taken.append(self._items.popleft())
                events += size
                if not isinstance(item, Run):
                    break
            self._events -= events
            self._changed.notify_all()
        return taken

    def wait_for_room(self, wait_s: float) -> bool:
        """Wait until it is not full; whether it is not."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.full, wait_s)

    def drop_runs(self) -> None:
        """Forget the events; the messages stay."""
        with self._changed:
            kept = [item for item in self._items if not isinstance(item, Run)]
            self._items = deque(kept)
            self._events = 0
            self._changed.notify_all()


class Wants:
    """From where a feeder needs its partitions: written by it, taken by its lane."""

    def __init__(self) -> None:
        self._places: dict[Partition, Progress] = {}
        self._lock = threading.Lock()

    def add(self, partition: Partition, progress: Progress) -> None:
        """Need the partition from here; this takes the place of what was needed before."""
        with self._lock:
            self._places[partition] = progress

    def take(self) -> dict[Partition, Progress]:
        """What is needed, once."""
        if not self._places:
            return {}
        with self._lock:
            places, self._places = self._places, {}
        return places


class Source(Protocol):
    """Whatever takes events in by its store: a projection, or something else with positions."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def version(self) -> int:
        """Its declared version."""
        ...

    @property
    def contexts(self) -> Sequence[Context]:
        """The contexts whose events it takes in."""
        ...


class Feeder:
    """Feeds one generation. `run` is a thread's target; everything else any thread may call.

    `label` is its name in metrics. `topics` looks up the id and partition count of each context's
    event topic (Unavailable where one is missing).
    """

    def __init__(
        self,
        projection: Source,
        generation: int,
        *,
        label: str,
        store: ProjectionStore,
        topics: Callable[[], Mapping[str, TopicInfo]],
        decisions: Decisions,
        batch_events_max: int,
        queue_events_max: int,
    ) -> None:
        self.generation = Generation(projection.name, projection.version, generation)
        self.contexts = frozenset(context.name for context in projection.contexts)
        self.queue = FeedQueue(queue_events_max)
        self.wants = Wants()
        self.accepting = False
        self.gone = False
        self._opened = False
        self.topics: Mapping[str, TopicInfo] = {}
        self._look_up_topics = topics
        self._store = store
        folder = Folder(projection, decisions) if isinstance(projection, Projection) else None
        revise = partial(revised, decisions=decisions, contexts=projection.contexts)
        self._feed = Feed(projection.name, folder, store, self.wants.add, revise)
        self._batch_events_max = batch_events_max
        self._metrics = ProjectionMetrics(label)
        self._stopping = threading.Event()
        self._refused: TidelogError | None = None
        self._trouble: str | None = "starting"
        self._pause_s = PAUSE_S_MIN
        self._retry_at = 0.0

    @property
    def name(self) -> str:
        """The name of its table: `order_summary__v1_g1`."""
        return self.generation.table

    @property
    def opened(self) -> bool:
        """Whether its tables are there."""
        return self._opened

    def problems(self) -> list[str]:
        """Why it is not well, each with its cure; empty where all is well."""
        found = [self._trouble] if self._trouble else []
        return found + [str(error) for error in self._feed.stopped.copy().values()]

    def positions(self) -> dict[Partition, int]:
        """The sequence up to which each partition of this process is folded in."""
        progress = self._feed.progress.copy()
        return {at: found.sequence for at, found in progress.items()}

    def progress(self, partition: Partition) -> Progress | None:
        """How far the partition is folded in; None where it is not ours or not known yet."""
        return self._feed.progress.get(partition)

    def refuse(self, error: TidelogError) -> None:
        """Go on only once the store has been asked whether this is still its log."""
        self._refused = error

    def stop(self) -> None:
        """Finish the batch in hand, then leave."""
        self._stopping.set()
        self.queue.put(())

    def run(self) -> None:
        """Fold until stopped, or until the generation is dropped."""
        try:
            while not self._stopping.is_set():
                try:
                    self._work()
                except GenerationGone:
                    log.info("projection.gone", table=self.name)
                    return
                except (DefinitionChanged, TopicRecreated) as error:
                    self._stand(error)
                except Exception as error:  # it may pass: retry, and show it
                    self._wait_after(error)
        finally:
            self.gone = True
            self._shut()
            self._metrics.released(list(self._feed.progress))

    # --- the loop ---------------------------------------------------------------------------

    def _work(self) -> None:
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise refused
        if not self._opened:
            self._open()
        self._feed.settle()
        self._retry_stopped()
        self._well()
        taken = self.queue.take(self._batch_events_max, TAKE_S)
        runs = [item for item in taken if isinstance(item, Run)]
        if runs:
            self._fold(runs)
        else:
            self._heed(taken)

    def _open(self) -> None:
        self.topics = self._look_up_topics()
        self._store.open(self.topics)
        self._feed.doubt()
        # Before anything is asked for: what is handed over earlier would be dropped.
        self._opened = self.accepting = True

    def _heed(self, messages: Iterable[Message | Run]) -> None:
        for message in messages:
            match message:
                case Assigned(partitions):
                    self._feed.assigned(self._own(partitions))
                case Released(partitions):
                    self._feed.released(self._own(partitions))
                    self._metrics.released(self._own(partitions))
                case Resume():
                    self._feed.resume()

    def _own(self, partitions: Iterable[Partition]) -> list[Partition]:
        return [at for at in partitions if at.context in self.contexts]

    def _fold(self, runs: Sequence[Run]) -> None:
        began = time.perf_counter()
        try:
            report = self._feed.step(runs)
        except Exception:
            self._feed.doubt()  # what became of the batch is uncertain: the store knows
            raise
        self._tell(report, time.perf_counter() - began, {run.partition for run in runs})
        if report.overtaken:
            self._step_back()
        elif report.transactions:
            self._pause_s = PAUSE_S_MIN

    def _step_back(self) -> None:
        """Somebody else feeds this: be the one who stands by, and look again after a pause.

        Without it two processes that both feed a partition would take turns in failing.
        """
        log.info("projection.overtaken", table=self.name, pause_s=round(self._pause_s, 2))
        self.accepting = False
        self._feed.doubt()
        self.queue.drop_runs()
        self._stopping.wait(self._next_pause())
        self.accepting = True

    def _retry_stopped(self) -> None:
        if self._feed.stopped and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + STOPPED_S
            self._feed.retry()

    # --- what goes wrong --------------------------------------------------------------------

    def _stand(self, error: TidelogError) -> None:
        """A person must act; what they do is noticed without a restart."""
        self._metrics.count_error(error)
        if self._trouble != str(error):
            log.error("projection.refuses", table=self.name, reason=str(error))
        self._trouble = str(error)
        self._shut()
        self._stopping.wait(REFUSED_S)

    def _wait_after(self, error: Exception) -> None:
        kind = self._metrics.count_error(error)
        self._trouble = f"{kind}: {error}"
        expected = isinstance(error, TidelogError)
        log.warning(
            "projection.waits",
            table=self.name,
            reason=str(error),
            pause_s=round(self._pause_s, 2),
            exc_info=None if expected else error,
        )
        self._stopping.wait(self._next_pause())

    def _shut(self) -> None:
        self._opened = self.accepting = False
        self.queue.drop_runs()
        self._store.close()

    def _next_pause(self) -> float:
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, PAUSE_S_MAX)
        return pause

    def _well(self) -> None:
        if self._trouble is not None:
            log.info("projection.runs", table=self.name)
            self._trouble, self._pause_s = None, PAUSE_S_MIN

    # --- what is told -----------------------------------------------------------------------

    def measure_stopped(self, by_the_log: Iterable[Partition]) -> None:
        """Take in which partitions stand because of the log, and so for everybody."""
        standing = {*self._own(by_the_log), *self._feed.stopped.copy()}
        self._metrics.stopped(len(standing))

    def _tell(self, report: Report, seconds: float, moved: Iterable[Partition]) -> None:
        self._metrics.count(report, seconds)
        progress = self._feed.progress
        self._metrics.reached({at: progress[at].sequence for at in moved if at in progress})
        for parked in report.parked:
            log.error(
                "projection.parked",
                table=self.name,
                partition=str(parked.partition),
                offset=parked.record.offset,
                fork=parked.fork,
                reason=parked.reason,
            )
        for key in report.parked_keys:
            log.error(
                "projection.key_parked",
                table=self.name,
                key=key.key,
                position=key.fact.position,
                exc_info=key.error,
            )
        for failure in report.failures.values():
            log.error(
                "projection.partition_stopped",
                table=self.name,
                position=failure.fact.position,
                exc_info=failure.error,
            )
