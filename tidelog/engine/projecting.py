"""One generation's live fold, without any I/O of its own: events come in, a transaction goes out.

What a feed holds in memory is a copy of the stored progress: whenever the two may differ, it reads
the store again. It trusts nobody about what comes next. Events at or below its progress it has;
events that begin beyond the next one it drops, and asks for those between. So it may be handed
anything, from any lane, twice or with gaps: in the end each event is folded once, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, assert_never

from tidelog.engine.folding import (
    Changes,
    Folder,
    FoldFailure,
    KeyParked,
    StoredRow,
    Touch,
)
from tidelog.engine.judge import Progress
from tidelog.engine.log_stream import Run
from tidelog.engine.projection_store import Applied, Overtaken, ProjectionStore, Step, Written
from tidelog.engine.reading import Fact, ParkedRecord, Partition
from tidelog.errors import CodecError, ProjectionFault, TidelogError

CACHED_ROWS_MAX = 20_000

Want = Callable[[Partition, Progress], None]
"""Asks the lane for the events of a partition behind a place."""

Revise = Callable[[Sequence[Fact]], Sequence[Fact]]
"""Puts people's decisions in the place of events, for a projection that writes its own SQL."""


@dataclass(kw_only=True)
class Report:
    """What one batch came to."""

    events: int = 0
    transactions: int = 0
    overtaken: bool = False
    parked: list[ParkedRecord] = field(default_factory=list)
    parked_keys: list[KeyParked] = field(default_factory=list)
    failures: dict[Partition, FoldFailure] = field(default_factory=dict)


class Work(NamedTuple):
    """Events to write in one transaction, each partition in order, and records to park."""

    facts: Sequence[Fact]
    parked: Sequence[ParkedRecord] = ()


class RowCache:
    """The rows that were written last, so that they need not be loaded.

    They are what is stored for as long as every write of this feed succeeds: a row changes only
    together with its partition's progress, and whoever advances that first makes our next write
    fail. It holds for rows that one partition feeds, and only for those.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._rows: dict[str, StoredRow] = {}

    def split(self, keys: Iterable[str]) -> tuple[dict[str, StoredRow], list[str]]:
        """The rows that are known, and the keys that must be loaded."""
        rows = self._rows
        known: dict[str, StoredRow] = {}
        missing = []
        for key in keys:
            row = rows.get(key)
            if row is None:
                missing.append(key)
            else:
                known[key] = row
        return known, missing

    def update(self, changes: Changes) -> None:
        """Take in what was written; what has not been written for the longest time goes."""
        rows = self._rows
        for key in changes.upserts:
            rows.pop(key, None)
        rows.update(changes.upserts)
        for key in changes.deletes:
            rows.pop(key, None)
        for parked in changes.parked:
            rows.pop(parked.key, None)
        for key in list(islice(rows, max(len(rows) - self._rows_max, 0))):
            del rows[key]

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()


class Feed:
    """The live fold of one generation. One thread uses it.

    `folder` is None where the projection writes its own SQL: then the store does all there is to
    do. `stopped` are the partitions that this feed cannot go on with, because the rows of an event
    cannot be told, or because the projection's own SQL fails.
    """

    def __init__(
        self,
        name: str,
        folder: Folder[Any] | None,
        store: ProjectionStore,
        want: Want,
        revise: Revise = lambda facts: facts,
    ) -> None:
        self.progress: dict[Partition, Progress] = {}
        self.stopped: dict[Partition, TidelogError] = {}
        self._name = name
        self._folder = folder
        self._store = store
        self._want = want
        self._revise = revise
        cached = 0 if folder is None or folder.shared else CACHED_ROWS_MAX
        self._rows = RowCache(cached)
        self._owned = folder is not None and not folder.shared
        self._unplaced: set[Partition] = set()
        self._asked: dict[Partition, Progress] = {}

    # --- which partitions, and from where ---------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether the progress of each of its partitions is known."""
        return not self._unplaced

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Partitions came to this process; `settle` finds out where they stand."""
        self._unplaced.update(partitions)

    def released(self, partitions: Iterable[Partition]) -> None:
        """Partitions went to another process, which begins at what is stored."""
        for partition in partitions:
            self._unplaced.discard(partition)
            self._asked.pop(partition, None)
            self.progress.pop(partition, None)
            self.stopped.pop(partition, None)

    def doubt(self) -> None:
        """What became of the last write is not known, or others write: nothing in memory counts."""
        self._unplaced.update(self.progress)

    def settle(self) -> None:
        """Read where the partitions in doubt stand, and ask for what comes then."""
        if not self._unplaced:
            return
        stored = self._store.progress()
        self._rows.clear()
        for partition in sorted(self._unplaced):
            self.progress[partition] = stored[partition]
            self._ask(partition, stored[partition])
        self._unplaced.clear()

    def resume(self) -> None:
        """Ask for every partition, because another lane delivers from now on."""
        for partition, progress in self.progress.items():
            self._ask(partition, progress)

    def retry(self) -> None:
        """Try the partitions that stand once more: a decision may have cured the event."""
        stopped = list(self.stopped)
        self.stopped.clear()
        for partition in stopped:
            self._ask(partition, self.progress[partition])

    def _ask(self, partition: Partition, progress: Progress) -> None:
        if partition not in self.stopped:
            self._asked[partition] = progress
            self._want(partition, progress)

    # --- one batch --------------------------------------------------------------------------

    def step(self, runs: Iterable[Run]) -> Report:
        """Fold what is new in the runs and write it.

        After an overtaken write, and after any error, `doubt` and `settle`.
        """
        report = Report()
        work = [self._next(runs)]
        while work and not report.overtaken:
            work.extend(self._fold(work.pop(), report))
        return report

    def _next(self, runs: Iterable[Run]) -> Work:
        """What comes next of each partition; a gap is dropped and asked for, once."""
        facts: list[Fact] = []
        parked: list[ParkedRecord] = []
        reached: dict[Partition, Progress] = {}
        for run in runs:
            at = reached.get(run.partition) or self.progress.get(run.partition)
            if at is None or run.partition in self.stopped:
                continue
            new = _beyond(run.facts, at)
            if _begins(run, new) > at.sequence + 1:
                if self._asked.get(run.partition) != at:
                    self._ask(run.partition, at)
                continue
            facts += new
            parked += [each for each in run.parked if each.record.offset > at.offset]
            if new:
                reached[run.partition] = Progress(new[-1].sequence, new[-1].offset)
        return Work(facts, parked)

    def _fold(self, work: Work, report: Report) -> list[Work]:
        """Write the work in one transaction; where that cannot be, what to do next, last first."""
        work = work._replace(facts=_before(report.failures, work.facts))
        touches, failure = self._touches(work.facts)
        if failure is not None:
            self._cut(failure, report)
            return [work]
        try:
            applied = self._apply(work, touches)
        except Exception as error:
            if not self._blames_the_work(error):
                raise
            return self._narrow(work, touches, error, report)
        self._take_note(work, applied, report)
        return []

    def _touches(self, facts: Sequence[Fact]) -> tuple[Sequence[Touch], FoldFailure | None]:
        return ([], None) if self._folder is None else self._folder.touches(facts)

    def _cut(self, failure: FoldFailure, report: Report) -> None:
        """Stop the partition before the event that failed; what else there is goes on."""
        failed = failure.fact
        report.failures[failed.partition] = failure
        self.stopped[failed.partition] = ProjectionFault(
            f"{self._name}: {type(failed.event).__name__} at {failed.position} cannot be written "
            f"({type(failure.error).__name__}). Mend the projection, or decide about the event."
        )

    def _blames_the_work(self, error: Exception) -> bool:
        """Whether the error may lie in an event: SQL of a projection's own may raise anything."""
        if isinstance(error, CodecError):
            return True
        return self._folder is None and not isinstance(error, TidelogError)

    def _narrow(
        self, work: Work, touches: Sequence[Touch], error: Exception, report: Report
    ) -> list[Work]:
        """Find the event that the store refuses, by halves; what is not at fault is written."""
        facts = work.facts
        if not facts:
            raise error  # the store refuses a parked record: a fault of ours
        if work.parked:
            return [Work(facts), Work((), work.parked)]
        if len(facts) > 1:
            middle = len(facts) // 2
            return [Work(facts[middle:]), Work(facts[:middle])]
        (fact,) = facts
        if self._folder is None:
            self._cut(FoldFailure(fact, error), report)
            return []
        applied = self._apply(work, touches, {(fact.partition, fact.sequence): error})
        self._take_note(work, applied, report)
        return []

    def _apply(
        self,
        work: Work,
        touches: Sequence[Touch],
        refused: Mapping[tuple[Partition, int], Exception] | None = None,
    ) -> Applied:
        after = _reach(work.facts)
        if not after and not work.parked:
            return Written(0, 0)
        touched = sorted({touch.key for touch in touches})
        cached, missing = self._rows.split(touched)
        if self._owned:
            missing = _not_begun(missing, touches)
        folder, folded = self._folder, list[Changes]()

        def fold(rows: Mapping[str, StoredRow], waiting: AbstractSet[str]) -> Changes:
            assert folder is not None, "a store of SQL's own folds nothing"
            folded.append(folder.fold(touches, {**cached, **rows}, waiting, refused))
            return folded[-1]

        applied = self._store.apply(
            Step(
                before={at: self.progress[at] for at in after},
                after=after,
                parked=work.parked,
                facts=self._revise(work.facts),
                touched=touched,
                keys=missing,
                shared=folder is not None and folder.shared,
                fold=fold,
                reads=self._must_read(missing),
            )
        )
        if folded and isinstance(applied, Written):
            self._rows.update(folded[-1])
        return applied

    def _must_read(self, missing: Sequence[str]) -> bool:
        """Whether the store has to be asked for anything before it can be written.

        Of rows that are aggregates none that is known, or has not begun, is parked: what we park
        is forgotten, and whoever else parks a key does so together with its partition's progress,
        or with what is heeded, and both would make our write fail.
        """
        return not self._owned or bool(missing)

    def _take_note(self, work: Work, applied: Applied, report: Report) -> None:
        match applied:
            case Written():
                self.progress.update(_reach(work.facts))
                report.transactions += bool(work.facts or work.parked)
                report.events += len(work.facts)
                report.parked.extend(work.parked)
                report.parked_keys.extend(applied.parked)
            case Overtaken():
                report.overtaken = True
            case _:
                assert_never(applied)


def _not_begun(keys: Sequence[str], touches: Iterable[Touch]) -> list[str]:
    """Of these keys, those that may have a row: before an aggregate's first event there is none."""
    if not keys:
        return []
    begun = {touch.key for touch in touches if touch.fact.version == 1}
    return [key for key in keys if key not in begun]


def _before(failures: Mapping[Partition, FoldFailure], facts: Sequence[Fact]) -> Sequence[Fact]:
    """The events that do not lie at or behind one that failed."""
    if not failures:
        return facts
    ends = {at: failure.fact.sequence for at, failure in failures.items()}
    return [
        fact for fact in facts if fact.partition not in ends or fact.sequence < ends[fact.partition]
    ]


def _beyond(facts: Sequence[Fact], at: Progress) -> Sequence[Fact]:
    """The events of a run that are not taken in yet; a run has no gap, so they are its end."""
    known = at.sequence + 1 - facts[0].sequence if facts else 0
    return facts[known:] if known > 0 else facts


def _begins(run: Run, new: Sequence[Fact]) -> int:
    """The sequence with which something new begins; a record lies behind the event before it."""
    if new:
        return new[0].sequence
    return run.parked[0].after + 1 if run.parked and not run.facts else 0


def _reach(facts: Iterable[Fact]) -> dict[Partition, Progress]:
    """How far each partition is, once these are written."""
    last = {fact.partition: fact for fact in facts}
    return {at: Progress(fact.sequence, fact.offset) for at, fact in last.items()}
