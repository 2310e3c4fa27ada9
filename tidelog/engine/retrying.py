"""Retrying: the events of one parked row, from where it holds them on, in order.

Without I/O of its own. Most of the way is read while everybody else goes on; the last stretch is
read in one transaction that locks the positions, so that the row is handed over to the live fold
without a gap and without an event twice. A retry that fails again leaves the row before the event
that fails; one that is cut short leaves it further on than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from tidelog.engine.folding import Decisions, Folder, StoredRow, Touch
from tidelog.engine.heeded import Heeded
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Fact, Partition
from tidelog.errors import CodecError
from tidelog.projection import Projection

FOLDED_MAX = 20_000
"""How many events of a row one retry folds at most; the next one goes on from there."""

LOCKED_EVENTS_MAX = 2_000
"""How many events of the log are read at most while the positions are locked."""

ROUNDS_MAX = 100
"""How often one retry begins again, for a log that grows or a store that refuses a row."""


class ParkedKey(NamedTuple):
    """A row that is parked: the event that failed, and up to where the row holds its events.

    `heeded` says which decisions the rows of its partitions have heeded. A `stale` row holds more
    than `after` says, without a decision that has come since: it is folded again from nothing.
    """

    key: str
    partition: Partition
    sequence: int
    offset: int
    after: Mapping[Partition, Progress]
    waiting: int
    attempts: int
    heeded: Mapping[Partition, Heeded] = {}
    stale: bool = False


Forks = frozenset[tuple[Partition, int]]
"""The places of records that took the sequence of an earlier one: no fold takes them."""


class Loaded(NamedTuple):
    """What a retry begins with, all of one moment: the parked key, its row, and the positions.

    Of a row that is stale there is none.
    """

    parked: ParkedKey
    row: StoredRow | None
    progress: Mapping[Partition, Progress]
    forks: Forks


class Halt(NamedTuple):
    """Where a fold came to a halt, and why; without an error it took all that one retry takes."""

    fact: Fact
    error: Exception | None


class Settled(NamedTuple):
    """What a retry made of a row. Without a halt the key is parked no more."""

    row: StoredRow | None
    changed: bool
    folded: int
    after: Mapping[Partition, Progress]
    halt: Halt | None
    # How many events wait behind the halt; None where as many as before, and those since.
    waiting: int | None


class Outcome(Enum):
    """What became of a retry."""

    DRAINED = "drained"
    FAILED = "failed"
    MOVED = "moved"  # further on, and not at the end: it goes on at once
    LOST = "lost"  # somebody else was faster, or nothing is parked any more


class Retried(NamedTuple):
    """One retry of one key."""

    key: str
    outcome: Outcome
    folded: int = 0
    halt: Halt | None = None
    attempts: int = 0


Close = Callable[[Mapping[Partition, Progress], Forks], Settled | None]
"""The last stretch, up to the locked positions; None where it is too long to be read locked."""


class Applied(Enum):
    """What became of the transaction that ends a retry."""

    DONE = "done"
    TOO_FAR = "too far"
    OVERTAKEN = "overtaken"
    DECIDED = "decided"  # the rows have heeded other decisions than when the retry began


class ParkedStore(Protocol):
    """The parked keys of one generation and their rows."""

    def load(self, key: str) -> Loaded | None:
        """The parked key as it stands; None where it is not parked (any more).

        Unavailable where the rows have heeded decisions that are not known here yet.
        """
        ...

    def settle(self, parked: ParkedKey, close: Close) -> Applied:
        """Lock the positions, ask `close` what to write, and write it, in one transaction.

        OVERTAKEN where the key is not parked as `parked` says. CodecError where the row is refused.
        """
        ...


class Log(Protocol):
    """Reads stretches of the log."""

    def facts(
        self, at: Partition, after: Progress, until: Progress, key: str | None
    ) -> Iterator[Sequence[Fact]]:
        """The events after one place up to another, a chunk at a time; of one aggregate if given.

        Records that are not ours are left out.
        """
        ...


class RowFold:
    """Folds one row's events as they come, until one fails or as many as allowed are folded."""

    def __init__(
        self,
        projection: Projection[Any, Any],
        decisions: Decisions,
        loaded: Loaded,
        *,
        folded_max: int,
        refused: Mapping[tuple[Partition, int], Exception],
    ) -> None:
        self._folder = Folder(projection, decisions)
        self._key = loaded.parked.key
        self._stored = loaded.row
        self._stale = loaded.parked.stale
        self.forks = loaded.forks
        self._folded_max = folded_max
        self._refused = refused
        self.row = loaded.row
        self.reached = dict(loaded.parked.after)
        self.halt: Halt | None = None
        self.folded = 0
        self.passed = 0
        self.last: Fact | None = None

    @property
    def shared(self) -> bool:
        """Whether several partitions may feed the row."""
        return self._folder.shared

    @property
    def changed(self) -> bool:
        """Whether the row is another than the one that is stored."""
        return self._stale or self.row != self._stored

    def take(self, facts: Iterable[Fact]) -> None:
        """Fold the events that touch the row; behind a halt, count them."""
        known = [f for f in facts if (f.partition, f.offset) not in self.forks]
        touches, failure = self._folder.touches(known)
        if failure is not None:
            raise failure.error
        own = [touch for touch in touches if touch.key == self._key]
        if self.halt is None:
            own = list(self._fold(own))
        self.passed += len(own)
        if self.halt is None and known:
            last = known[-1]
            self.reached[last.partition] = Progress(last.sequence, last.offset)

    def _fold(self, touches: Sequence[Touch]) -> Sequence[Touch]:
        """Fold up to a halt; the events behind it."""
        room = self._folded_max - self.folded
        allowed, rest = touches[:room], touches[room:]
        stored = {} if self.row is None else {self._key: self.row}
        changes = self._folder.fold(allowed, stored, refused=self._refused)
        if self._key in changes.deletes:
            self.row = None
        self.row = changes.upserts.get(self._key, self.row)
        taken = len(allowed)
        if changes.parked:
            (failed,) = changes.parked
            taken -= 1 + changes.passed.get(self._key, 0)
            self.halt = Halt(failed.fact, failed.error)
            rest = touches[taken + 1 :]
        elif rest:
            self.halt, rest = Halt(rest[0].fact, None), rest[1:]
        self.folded += taken
        if taken:
            self.last = touches[taken - 1].fact
        if self.halt is not None:
            fact = self.halt.fact
            self.reached[fact.partition] = Progress(fact.sequence - 1, fact.offset - 1)
        return rest


class Retrier:
    """Retries parked keys of one generation. One thread uses it."""

    def __init__(
        self,
        projection: Projection[Any, Any],
        store: ParkedStore,
        log: Log,
        decisions: Decisions,
    ) -> None:
        self._projection = projection
        self._store = store
        self._log = log
        self._decisions = decisions

    def retry(self, key: str) -> Retried:
        """Fold the key's events from the one that failed on, as far as they go.

        Raises Unavailable where the log or the store cannot be reached; nothing is lost by that.
        """
        refused: dict[tuple[Partition, int], Exception] = {}
        folded_max = FOLDED_MAX
        for _ in range(ROUNDS_MAX):
            loaded = self._store.load(key)
            if loaded is None:
                return Retried(key, Outcome.LOST)
            fold = RowFold(
                self._projection,
                self._decisions,
                loaded,
                folded_max=folded_max,
                refused=refused,
            )
            try:
                done = self._one(fold, loaded)
            except CodecError as error:
                if fold.last is None:
                    raise
                # The store refuses the row. Halve until one event is left: that one is to blame.
                if fold.folded == 1:
                    refused[fold.last.partition, fold.last.sequence] = error
                folded_max = max(fold.folded // 2, 1)
                continue
            if done is not None:
                return done
        return Retried(key, Outcome.MOVED)

    def _one(self, fold: RowFold, loaded: Loaded) -> Retried | None:
        """Read, then hand over; None where it is to be begun again."""
        parked, progress = loaded.parked, loaded.progress
        settled: list[Settled] = []
        read = dict(parked.after)

        def close(locked: Mapping[Partition, Progress], forks: Forks) -> Settled | None:
            behind = sum(locked[at].sequence - read[at].sequence for at in read)
            if behind > LOCKED_EVENTS_MAX and not self._enough(fold, parked):
                return None
            fold.forks = forks
            self._read(fold, parked, read, locked)
            settled.append(self._settled(fold, parked))
            return settled[-1]

        for _ in range(ROUNDS_MAX):
            self._read(fold, parked, read, progress)
            match self._store.settle(parked, close):
                case Applied.DONE:
                    return _retried(settled[-1], parked)
                case Applied.OVERTAKEN:
                    return Retried(parked.key, Outcome.LOST)
                case Applied.DECIDED:
                    return None
                case Applied.TOO_FAR:
                    again = self._store.load(parked.key)
                    if again is None or again.parked.after != parked.after:
                        return Retried(parked.key, Outcome.LOST)
                    progress, fold.forks = again.progress, again.forks
        return None

    def _read(
        self,
        fold: RowFold,
        parked: ParkedKey,
        read: dict[Partition, Progress],
        until: Mapping[Partition, Progress],
    ) -> None:
        """Take in the log from `read` up to `until`, and move `read` there.

        Nothing more is read once the very event that failed before fails again.
        """
        of_aggregate = None if fold.shared else parked.key
        for at in sorted(read):
            if self._enough(fold, parked):
                return
            for facts in self._log.facts(at, read[at], until[at], of_aggregate):
                fold.take(facts)
                if self._enough(fold, parked):
                    return
            read[at] = until[at]
            if fold.halt is None:
                fold.reached[at] = until[at]

    def _enough(self, fold: RowFold, parked: ParkedKey) -> bool:
        """Whether what waits is known well enough without reading on."""
        if fold.halt is None:
            return False
        fact, error = fold.halt
        same = (fact.partition, fact.sequence) == (parked.partition, parked.sequence)
        return error is None or (same and fold.folded == 0)

    def _settled(self, fold: RowFold, parked: ParkedKey) -> Settled:
        waiting = None if self._enough(fold, parked) else fold.passed
        return Settled(fold.row, fold.changed, fold.folded, dict(fold.reached), fold.halt, waiting)


def _retried(settled: Settled, parked: ParkedKey) -> Retried:
    halt = settled.halt
    if halt is None:
        return Retried(parked.key, Outcome.DRAINED, settled.folded)
    if halt.error is None:
        return Retried(parked.key, Outcome.MOVED, settled.folded, halt)
    attempts = attempts_after(parked, halt)
    return Retried(parked.key, Outcome.FAILED, settled.folded, halt, attempts)


def attempts_after(parked: ParkedKey, halt: Halt) -> int:
    """How often the event at the halt was tried, this time included."""
    fact = halt.fact
    same = (fact.partition, fact.sequence) == (parked.partition, parked.sequence)
    if halt.error is None:
        return parked.attempts
    return parked.attempts + 1 if same else 1
