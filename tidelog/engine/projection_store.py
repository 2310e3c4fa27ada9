"""The port of the read side: where the rows and the progress of one generation are kept, together.

One step is one transaction. It advances the stored progress from what the batch began at, or it
does nothing at all; that one rule is exactly-once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from tidelog.engine.folding import Changes, KeyParked, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Fact, ParkedRecord, Partition


class TopicInfo(NamedTuple):
    """What a reader pins about a topic: its id (KIP-516) and its number of partitions."""

    id: str
    partitions: int


Fold = Callable[[Mapping[str, StoredRow], AbstractSet[str]], Changes]
"""What to do with the loaded rows, given which of the touched keys are parked."""


class Step(NamedTuple):
    """What one transaction does: advance from `before` to `after`, park, load, fold and write.

    `touched` are the keys of all rows that the events touch: which of them are parked is read
    inside the transaction. `keys` are those whose rows are to be loaded. `fold` is then called
    with what was found; it may change rows of any touched key. `facts` are the events themselves,
    for a projection that writes its own SQL.

    With `reads` False nothing needs to be found: every row is known, and none of their keys is
    parked. Then a store may do all of it in one statement.
    """

    before: Mapping[Partition, Progress]
    after: Mapping[Partition, Progress]
    parked: Sequence[ParkedRecord]
    facts: Sequence[Fact]
    touched: Sequence[str]
    keys: Sequence[str]
    shared: bool
    fold: Fold
    reads: bool = True


class Written(NamedTuple):
    """The transaction is committed."""

    upserted: int
    deleted: int
    parked: Sequence[KeyParked] = ()


class Overtaken(NamedTuple):
    """Another writer has advanced: nothing was written."""


Applied = Written | Overtaken


class ProjectionStore(Protocol):
    """Keeps the rows and the progress of one generation of a projection, together."""

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make what is missing.

        Raises TopicRecreated where a context's topic has another id, and DefinitionChanged where
        the projection is not the one that the rows were folded by.
        """
        ...

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is folded in, and by which decisions: `apply` begins there.

        Whoever keeps rows in memory forgets them now: they may have heeded fewer decisions.
        Raises GenerationGone where the generation was dropped.
        """
        ...

    def apply(self, step: Step) -> Applied:
        """All of the step, or nothing.

        Raises Unavailable where the store cannot be reached, with an uncertain outcome, and
        CodecError where it refuses a value. SQL of a projection's own may raise anything.
        """
        ...

    def close(self) -> None:
        """Release the store."""
        ...


class RowStore(ProjectionStore, Protocol):
    """A store whose rows the engine folds, and so can read back."""

    def rows(self) -> dict[str, StoredRow]:
        """Every row, by key."""
        ...
