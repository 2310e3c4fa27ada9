"""Folding: events become changes of rows.

Pure. Whoever drives it loads the rows that the events touch, and writes the changes and the
progress in one transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Fact, Partition
from tidelog.message import Context, Message, Row
from tidelog.projection import Projection

R = TypeVar("R", bound=Row)


class StoredRow(NamedTuple):
    """A row with what the engine keeps about it.

    Where the row's key is the key of an aggregate, `version` and `position` are those of the
    aggregate's last event. A row that several aggregates feed counts the events that it took in,
    which comes out the same in any order, and has no position.
    """

    row: Any
    version: int
    position: str
    created_at: datetime
    updated_at: datetime


class Decision(NamedTuple):
    """What a person decided about an event that a projection could not fold.

    `event` takes its place; None discards it. `number` and `sequence` are the partition and the
    sequence at which the decision itself stands in its log.
    """

    event: Message | None
    number: int = 0
    sequence: int = 0


Decisions = Mapping[tuple[Partition, int], Decision]
"""A projection's decisions by partition and sequence. The fold is of the log and of these."""


class KeyParked(NamedTuple):
    """A row whose fold failed at `fact`: it stays as it was, and its later events wait.

    `after` says, for each partition of the batch that may feed the row, up to where the row holds
    its events.
    """

    key: str
    fact: Fact
    error: Exception
    after: Mapping[Partition, Progress]


class Changes(NamedTuple):
    """The rows to write and to delete, the keys that were parked now, and what waits.

    `passed` counts, by parked key, the events that wait behind the one that failed.
    """

    upserts: dict[str, StoredRow]
    deletes: list[str]
    parked: list[KeyParked]
    passed: dict[str, int]


class FoldFailure(NamedTuple):
    """An event whose rows cannot be told, because `keys` failed, or that the store refuses."""

    fact: Fact
    error: Exception


class Touch(NamedTuple):
    """An event, a row that it touches, and whether `evolve` takes it."""

    key: str
    fact: Fact
    folded: bool


# As Touch(…), which would go through a function of its own.
_touch: Callable[[type[Touch], tuple[Any, ...]], Touch] = tuple.__new__


class Folder(Generic[R]):
    """Folds events into the rows of one projection.

    `decisions` may grow while the folder is in use; it is read for each event.
    """

    def __init__(self, projection: Projection[R, Any], decisions: Decisions | None = None) -> None:
        self._projection = projection
        self._decisions: Decisions = {} if decisions is None else decisions
        self._event_types = frozenset(projection.event_types)
        self._owner = row_owner(projection)
        self._keys = {context.name: context.key for context in projection.contexts}

    @property
    def shared(self) -> bool:
        """Whether several aggregates, and so several partitions, may feed one row."""
        return self._owner is None

    def touches(self, facts: Iterable[Fact]) -> tuple[list[Touch], FoldFailure | None]:
        """Which rows the events touch, in order, up to the first whose rows cannot be told."""
        touches: list[Touch] = []
        for fact in facts:
            taken = _revised(fact, self._decisions, self._keys) if self._decisions else fact
            if taken is not None and type(taken.event) in self._event_types:
                try:
                    keys = self._projection.keys_of(taken.event)
                except Exception as error:
                    return touches, FoldFailure(fact, error)
                touches += [_touch(Touch, (key, taken, True)) for key in keys]
            elif fact.partition.context == self._owner:
                # Not folded, but the row's aggregate has moved on: so has the row's version.
                key = getattr(fact.event, self._projection.key)
                touches.append(Touch(key, fact, False))
        return touches, None

    def fold(
        self,
        touches: Iterable[Touch],
        rows: Mapping[str, StoredRow],
        waiting: AbstractSet[str] = frozenset(),
        refused: Mapping[tuple[Partition, int], Exception] | None = None,
    ) -> Changes:
        """Fold the events into the rows, which are those in the table for the touched keys.

        The rows of the keys in `waiting` are parked already: their events are counted and passed
        over. An event in `refused` fails with that error, whatever `evolve` makes of it: the store
        does not take its outcome.
        """
        by_key: defaultdict[str, list[Touch]] = defaultdict(list)
        for touch in touches:
            by_key[touch[0]].append(touch)
        changes = Changes({}, [], [], {})
        for key, its_touches in by_key.items():
            if key in waiting:
                changes.passed[key] = len(its_touches)
            else:
                self._fold_key(key, rows.get(key), its_touches, refused or {}, changes)
        return changes

    def _fold_key(
        self,
        key: str,
        stored: StoredRow | None,
        touches: Sequence[Touch],
        refused: Mapping[tuple[Partition, int], Exception],
        changes: Changes,
    ) -> None:
        """Fold one row's events into `changes`, up to the first that fails."""
        row, folded, error = self._fold_row(stored, touches, refused)
        if error is not None:
            after = _reach(touches, folded)
            changes.parked.append(KeyParked(key, touches[folded].fact, error, after))
            waiting = len(touches) - folded - 1
            if waiting:
                changes.passed[key] = waiting
        if row is not None and folded:
            changes.upserts[key] = row
        elif row is None and stored is not None:
            changes.deletes.append(key)

    def _fold_row(
        self,
        stored: StoredRow | None,
        touches: Sequence[Touch],
        refused: Mapping[tuple[Partition, int], Exception],
    ) -> tuple[StoredRow | None, int, Exception | None]:
        """The row after its events, how many of them it took, and why it took no more."""
        owned = self._owner is not None
        row, count, failed, last = None, 0, None, None
        position = ""
        if stored is not None:
            row, version, position, created_at, updated_at = stored
        for touch in touches:
            fact = touch.fact
            time = fact.recorded_at
            after = row
            if touch.folded:
                try:
                    if refused:
                        _refuse(fact, refused)
                    after = self._evolve(touch.key, row, fact.event)
                except Exception as error:
                    failed = error
                    break
            if row is None:
                version, created_at, updated_at = 0, time, time
            row, count = after, count + 1
            if owned:
                version, updated_at, last = fact.version, time, fact
            else:
                version += 1
                created_at, updated_at = min(created_at, time), max(updated_at, time)
        if row is None:
            return None, count, failed
        if last is not None:
            position = last.position
        return StoredRow(row, version, position, created_at, updated_at), count, failed

    def _evolve(self, key: str, row: R | None, event: Message) -> R | None:
        projection = self._projection
        if row is None and projection.initial is not None:
            row = projection.initial(key)
        after = projection.evolve(row, event)
        assert after is None or getattr(after, projection.key) == key, (
            f"{projection.name}: evolve gave a row of another {projection.key}"
        )
        return after


def revised(
    facts: Sequence[Fact], decisions: Decisions, contexts: Iterable[Context]
) -> Sequence[Fact]:
    """The events as people's decisions have them: edited ones replaced, discarded ones left out."""
    if not decisions:
        return facts
    keys = {context.name: context.key for context in contexts}
    return [taken for fact in facts if (taken := _revised(fact, decisions, keys)) is not None]


def _revised(fact: Fact, decisions: Decisions, keys: Mapping[str, str]) -> Fact | None:
    """The event as a person's decision has it; None where it is discarded.

    A replacement takes an event's place only where it is of its type and of its aggregate.
    """
    decision = decisions.get((fact.partition, fact.sequence))
    if decision is None:
        return fact
    event = decision.event
    if event is None:
        return None
    key = keys[fact.partition.context]
    fits = type(event) is type(fact.event) and getattr(event, key) == getattr(fact.event, key)
    return fact._replace(event=event) if fits else fact


def row_owner(projection: Projection[Any, Any]) -> str | None:
    """The context whose aggregates are the rows; None where a row belongs to no one aggregate."""
    if projection.keys is not None or len(projection.contexts) != 1:
        return None
    (context,) = projection.contexts
    return context.name if context.key == projection.key else None


def _refuse(fact: Fact, refused: Mapping[tuple[Partition, int], Exception]) -> None:
    error = refused.get((fact.partition, fact.sequence))
    if error is not None:
        raise error


def _reach(touches: Sequence[Touch], folded: int) -> dict[Partition, Progress]:
    """Up to where a row holds its events when it took the first `folded` of these."""
    after = {touch.fact.partition: _at(touch.fact) for touch in touches[:folded]}
    failed = touches[folded].fact
    after[failed.partition] = Progress(failed.sequence - 1, failed.offset - 1)
    return after


def _at(fact: Fact) -> Progress:
    return Progress(fact.sequence, fact.offset)
