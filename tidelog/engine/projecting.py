"""One projection's loop, without any I/O of its own: a batch comes in, a transaction goes out.

The driver polls a reader and hands the records over; the loop judges and folds them, has the store
write rows and progress in one transaction, and says what happened. What it holds in memory is a
copy of the stored progress: whenever the two may differ, it reads the store again and seeks.

A damaged log and a fold that fails stop their partition, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol, assert_never

from tidelog.engine.folding import (
    Batch,
    Changes,
    EventReader,
    Folder,
    FoldFailure,
    Hole,
    Parked,
    Partition,
    Reading,
    StoredRow,
    Touch,
)
from tidelog.engine.judge import Progress
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.errors import CodecError, LogFork, LogHole, TidelogError
from tidelog.projection import Projection

FOLD_ATTEMPTS_MAX = 3
CACHED_ROWS_MAX = 20_000


class TopicInfo(NamedTuple):
    """What a reader pins about a topic: its id (KIP-516) and its number of partitions."""

    id: str
    partitions: int


class LogReader(Protocol):
    """Delivers the records of assigned partitions, each in order."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from this offset."""
        ...

    def pause(self, partition: Partition) -> None:
        """Deliver nothing more of this partition."""
        ...


class Step(NamedTuple):
    """What one transaction does: advance from `before` to `after`, park, load, fold and write.

    `keys` are the rows to load, with which `fold` is called; it may change others too.
    """

    before: Mapping[Partition, Progress]
    after: Mapping[Partition, Progress]
    parked: Sequence[Parked]
    keys: Sequence[str]
    shared: bool
    fold: Callable[[Mapping[str, StoredRow]], Changes]


class Written(NamedTuple):
    """The transaction is committed."""

    upserted: int
    deleted: int


class Overtaken(NamedTuple):
    """Another writer has advanced: nothing was written."""


class Failed(NamedTuple):
    """The fold failed for some keys: nothing was written."""

    failures: Sequence[FoldFailure]


Applied = Written | Overtaken | Failed


class ProjectionStore(Protocol):
    """Keeps the rows and the progress of one generation of a projection, together."""

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make what is missing. TopicRecreated where a context's topic has another id."""
        ...

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is folded in."""
        ...

    def apply(self, step: Step) -> Applied:
        """All of the step, or nothing.

        Raises Unavailable where the store cannot be reached, and CodecError where it refuses a
        value; the outcome of the former is uncertain.
        """
        ...

    def rows(self) -> dict[str, StoredRow]:
        """Every row, by key."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...


@dataclass(kw_only=True)
class Report:
    """What one batch came to."""

    events: int = 0
    transactions: int = 0
    redelivered: int = 0
    overtaken: bool = False
    parked: list[Parked] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    failures: dict[Partition, FoldFailure] = field(default_factory=dict)
    stopped: dict[Partition, TidelogError] = field(default_factory=dict)


class RowCache:
    """The rows that were written last, so that they need not be loaded.

    They are what is stored for as long as every write of this process succeeds: a row changes only
    together with its partition's progress, and whoever advances that first makes our next write
    fail. It holds for rows that one partition feeds, and only for those.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._rows: dict[str, StoredRow] = {}

    def split(self, keys: set[str]) -> tuple[dict[str, StoredRow], set[str]]:
        """The rows that are known, and the keys that must be loaded."""
        known = {key: self._rows[key] for key in keys if key in self._rows}
        return known, keys - known.keys()

    def update(self, changes: Changes) -> None:
        """Take in what was written; what has not been written for the longest time goes."""
        for key in changes.deletes:
            self._rows.pop(key, None)
        for key, row in changes.upserts.items():
            self._rows.pop(key, None)
            self._rows[key] = row
        for key in list(islice(self._rows, max(len(self._rows) - self._rows_max, 0))):
            del self._rows[key]

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()


class ProjectionLoop:
    """The live fold of one projection. Not thread-safe: one driver calls it."""

    def __init__(
        self,
        projection: Projection[Any, Any],
        codec: MessageCodec,
        store: ProjectionStore,
        reader: LogReader,
    ) -> None:
        self.projection = projection
        self.progress: dict[Partition, Progress] = {}
        self.stopped: dict[Partition, TidelogError] = {}
        self.forks: dict[Partition, LogFork] = {}
        self._events = EventReader(projection.contexts, codec)
        self._folder = Folder(projection)
        self._store = store
        self._reader = reader
        self._rows = RowCache(0 if self._folder.shared else CACHED_ROWS_MAX)
        self._holes: dict[Partition, Hole] = {}
        self._attempts: dict[tuple[Partition, int], int] = {}

    # --- assignment -------------------------------------------------------------------------

    def assigned(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Partitions came to this process: the offset from which to read each."""
        stored = self._store.progress()
        self._rows.clear()
        for partition in partitions:
            self._forget(partition)
            self.progress[partition] = stored[partition]
        return {partition: self.progress[partition].offset + 1 for partition in partitions}

    def released(self, partitions: Iterable[Partition]) -> None:
        """Partitions went to another process, which begins at what is stored."""
        for partition in partitions:
            self._forget(partition)

    def resync(self) -> None:
        """Drop what is in flight, take the stored progress, and read on from there."""
        self._rows.clear()
        stored = self._store.progress()
        for partition in self.progress:
            self.progress[partition] = stored[partition]
            if partition not in self.stopped:
                self._rewind(partition)

    def stop_partition(self, partition: Partition, error: TidelogError) -> None:
        """Read no more of the partition until it is assigned afresh."""
        self.stopped[partition] = error
        self._reader.pause(partition)

    # --- one batch --------------------------------------------------------------------------

    def step(self, batch: Batch) -> Report:
        """Fold the batch and write it. Unavailable passes through: call `resync`, then go on."""
        report = Report()
        work = [batch]
        while work and not report.overtaken:
            live = self._live(work.pop(), report)
            if live:
                work.extend(self._fold(live, report))
        if report.overtaken:
            self.resync()
        else:
            self._settle_failures(report)
        return report

    def _fold(self, batch: Batch, report: Report) -> list[Batch]:
        """Write the batch in one transaction; where that cannot be, what to do next, last first."""
        reading = self._events.read(batch, self.progress)
        touches, failures = self._folder.touches(reading.facts)
        if failures:
            return self._cut(batch, failures, report)
        try:
            applied = self._apply(reading, touches)
        except CodecError as error:
            first, second = _halves(batch)
            if first:
                return [second, first]
            if not reading.facts:
                raise  # the store refuses a parked record: a fault of ours
            failures = [FoldFailure("", fact, error) for fact in reading.facts]
            return self._cut(batch, failures, report)
        match applied:
            case Written():
                self._take_note(reading, report)
                return []
            case Overtaken():
                report.overtaken = True
                return []
            case Failed(failed):
                return self._cut(batch, failed, report)
        assert_never(applied)

    def _apply(self, reading: Reading, touches: Sequence[Touch]) -> Applied:
        if not reading.progress and not reading.parked:
            return Written(0, 0)
        cached, missing = self._rows.split({touch.key for touch in touches})
        folded: list[Changes] = []

        def fold(rows: Mapping[str, StoredRow]) -> Changes:
            folded.append(self._folder.fold(touches, {**cached, **rows}))
            return folded[-1]

        applied = self._store.apply(
            Step(
                before={at: self.progress[at] for at in reading.progress},
                after=reading.progress,
                parked=reading.parked,
                keys=sorted(missing),
                shared=self._folder.shared,
                fold=fold,
            )
        )
        if isinstance(applied, Written):
            self._rows.update(folded[-1])
        return applied

    def _take_note(self, reading: Reading, report: Report) -> None:
        self.progress.update(reading.progress)
        report.transactions += bool(reading.progress or reading.parked)
        report.events += len(reading.facts)
        report.redelivered += reading.redelivered
        report.parked.extend(reading.parked)
        report.holes.extend(reading.holes)
        for parked in reading.parked:
            if parked.fork:
                where = f"{parked.partition}, offset {parked.record.offset}"
                self.forks[parked.partition] = LogFork(f"{where}: {parked.reason}")
        for hole in reading.holes:
            self._meet_hole(hole, report)

    def _meet_hole(self, hole: Hole, report: Report) -> None:
        """Read again once from what is stored; the same hole again means events are missing."""
        if self._holes.get(hole.partition) != hole:
            self._holes[hole.partition] = hole
            self._rewind(hole.partition)
            return
        expected = hole.progress.sequence + 1
        error = LogHole(
            f"{hole.partition}: sequence {expected} is missing, the next one is {hole.found}. "
            "Restore the topic; the read model stands before the gap."
        )
        self._stop(hole.partition, error, report)

    def _cut(self, batch: Batch, failures: Sequence[FoldFailure], report: Report) -> list[Batch]:
        """Fold again without the first event that failed in each partition, nor those after it.

        This is the place where a failing event will park its key alone.
        """
        for failure in failures:
            fact = failure.fact
            earlier = report.failures.get(fact.partition)
            if earlier is None or fact.offset < earlier.fact.offset:
                report.failures[fact.partition] = failure
        return [batch]

    def _settle_failures(self, report: Report) -> None:
        """Try again from the event that failed; after some attempts the partition stops there."""
        for partition, failure in report.failures.items():
            place = (partition, failure.fact.sequence)
            attempts = self._attempts[place] = self._attempts.get(place, 0) + 1
            if attempts < FOLD_ATTEMPTS_MAX:
                self._rewind(partition)
            else:
                self._stop(partition, self._fold_fault(failure, attempts), report)

    def _fold_fault(self, failure: FoldFailure, attempts: int) -> TidelogError:
        return CodecError(
            f"{self.projection.name}: {type(failure.fact.event).__name__} at "
            f"{failure.fact.position} could not be folded in {attempts} attempts "
            f"({type(failure.error).__name__}). Mend evolve, then start again."
        )

    # --- small parts ------------------------------------------------------------------------

    def _live(self, batch: Batch, report: Report) -> dict[Partition, list[StoredRecord]]:
        """The records of partitions that are ours and run, each up to the event that failed."""
        live = {}
        for partition, records in batch.items():
            if partition not in self.progress or partition in self.stopped:
                continue
            failure = report.failures.get(partition)
            end = failure.fact.offset if failure else None
            taken = [r for r in records if end is None or r.offset < end]
            if taken:
                live[partition] = taken
        return live

    def _stop(self, partition: Partition, error: TidelogError, report: Report) -> None:
        self.stop_partition(partition, error)
        report.stopped[partition] = error

    def _rewind(self, partition: Partition) -> None:
        self._reader.seek(partition, self.progress[partition].offset + 1)

    def _forget(self, partition: Partition) -> None:
        self.progress.pop(partition, None)
        self.stopped.pop(partition, None)
        self.forks.pop(partition, None)
        self._holes.pop(partition, None)
        for place in [place for place in self._attempts if place[0] == partition]:
            del self._attempts[place]


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """The batch in two, each partition in order; the first is empty where one record is left."""
    records = [(at, record) for at, several in batch.items() for record in several]
    middle = len(records) // 2
    return _grouped(records[:middle]), _grouped(records[middle:])


def _grouped(records: Iterable[tuple[Partition, StoredRecord]]) -> Batch:
    batch: dict[Partition, list[StoredRecord]] = {}
    for partition, record in records:
        batch.setdefault(partition, []).append(record)
    return batch
