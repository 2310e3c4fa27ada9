"""A log, a live feed and a retrier over one store, for the tests of retries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.read_side import CODEC, COUNTERS, Added, record
from tidelog import Projection, Row
from tidelog.engine.folding import Decision, Folder, StoredRow
from tidelog.engine.heeding import HeedStore, Made, heed
from tidelog.engine.judge import Progress
from tidelog.engine.log_stream import Run
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projecting import Feed
from tidelog.engine.projection_store import RowStore, TopicInfo
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.engine.retrying import (
    Applied,
    Close,
    Loaded,
    Outcome,
    ParkedKey,
    ParkedStore,
    Retrier,
)

LEFT, RIGHT = Partition("counters", 0), Partition("counters", 1)
TOPICS = {"counters": TopicInfo("topic", 2)}
KEYS = {"a": LEFT, "b": LEFT, "c": RIGHT, "d": RIGHT}
BROKEN: set[int] = set()
"""The values that `evolve` cannot take at present."""


class History(Row):
    """What a row has taken in, in order."""

    counter_id: str
    taken: tuple[int, ...]


class Sum(Row):
    """A row that several aggregates feed: what it has taken in, in no order."""

    parity: str
    taken: tuple[int, ...]


def remember(row: History | None, event: Added) -> History | None:
    if event.by in BROKEN:
        raise ValueError(f"{event.by} is broken")
    if event.by == 0:
        return None  # the row is deleted, and begins anew
    taken = row.taken if row else ()
    return History(counter_id=event.counter_id, taken=(*taken, event.by))


def gather(row: Sum | None, event: Added) -> Sum:
    if event.by in BROKEN:
        raise ValueError(f"{event.by} is broken")
    taken = row.taken if row else ()
    return Sum(parity=str(event.by % 2), taken=tuple(sorted((*taken, event.by))))


history = Projection(
    name="history", version=1, contexts=[COUNTERS], row=History, key="counter_id", evolve=remember
)
sums = Projection(
    name="sums",
    version=1,
    contexts=[COUNTERS],
    row=Sum,
    key="parity",
    evolve=gather,
    keys=lambda event: [str(event.by % 2)],
)


class Between:
    """A store of parked keys; what is set as `then` happens once, after the next load."""

    def __init__(self, store: ParkedStore) -> None:
        self._store = store
        self.then: Callable[[], object] | None = None

    def load(self, key: str) -> Loaded | None:
        """As the store has it; then something happens."""
        loaded = self._store.load(key)
        then, self.then = self.then, None
        if then is not None:
            then()
        return loaded

    def settle(self, parked: ParkedKey, close: Close) -> Applied:
        """As the store does."""
        return self._store.settle(parked, close)


@dataclass
class System:
    """A log, one live loop, and a retrier."""

    projection: Projection[Any, Any]
    store: RowStore
    parked: ParkedStore
    heeding: HeedStore
    # The same tables in the hands of a process that knows of no decision.
    stranger: tuple[RowStore, ParkedStore]
    parked_keys: Callable[[], dict[str, int]]
    decisions: dict[tuple[Partition, int], Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        BROKEN.clear()
        self.store.open(TOPICS)
        self.log: dict[Partition, list[StoredRecord]] = {LEFT: [], RIGHT: []}
        self.versions: dict[str, int] = defaultdict(int)
        folder = Folder(self.projection, self.decisions)
        # What it asks for it gets: each step hands it all behind its progress.
        self.feed = Feed("test", folder, self.store, lambda *_: None)
        self.feed.assigned([LEFT, RIGHT])
        self.feed.settle()
        self.events = EventReader([COUNTERS], CODEC)
        self.between = Between(self.parked)
        self.retrier = Retrier(self.projection, self.between, self, self.decisions)
        self.made: list[Made] = []
        # How many of them are known, and heeded; a later one may take an earlier one's place.
        self.known = self.heeded = 0

    def append(self, key: str, by: int) -> tuple[Partition, int]:
        """An event of the key; every other offset is a marker."""
        at = KEYS[key]
        self.versions[key] += 1
        sequence = len(self.log[at]) + 1
        self.log[at].append(
            record(
                Added(counter_id=key, by=by),
                offset=2 * sequence,
                sequence=sequence,
                version=self.versions[key],
            )
        )
        return at, sequence

    def live(self) -> None:
        """What has come is folded live."""
        progress = self.feed.progress
        batch = {
            at: [record for record in records if record.offset > progress[at].offset]
            for at, records in self.log.items()
        }
        reading = self.events.read(batch, progress)
        runs = [
            Run(
                at,
                [fact for fact in reading.facts if fact.partition == at],
                [each for each in reading.parked if each.partition == at],
            )
            for at in batch
        ]
        if self.feed.step(runs).overtaken:
            self.feed.doubt()
            self.feed.settle()
            self.live()

    def facts(
        self, at: Partition, after: Progress, until: Progress, key: str | None
    ) -> Iterator[Sequence[Fact]]:
        """The log as the retrier reads it, an event at a time."""
        wanted = None if key is None else key.encode()
        for each in list(self.log[at]):
            if after.offset < each.offset <= until.offset and each.key == (wanted or each.key):
                fact = self.events.event(at, each)
                assert isinstance(fact, Fact)
                yield [fact]

    def more(self) -> None:
        """One more event, which is folded live."""
        self.append("a", 1)
        self.live()

    def decide(self, place: tuple[Partition, int], event: Added | None) -> None:
        """A person decides; nobody knows of it yet."""
        self.made.append(Made(*place, Decision(event, sequence=len(self.made) + 1)))

    def learn(self) -> None:
        """Everybody knows what was decided, and whoever should heed it is killed."""
        self.decisions.update({(at, sequence): made for at, sequence, made in self.made})
        self.known = len(self.made)

    def heed(self) -> list[str]:
        """What was decided is known and heeded."""
        self.learn()
        keys = heed(self.projection, self.heeding, self, self.made)
        self.heeded = len(self.made)
        return keys

    def retry(self, key: str) -> Outcome:
        """One retry."""
        return self.retrier.retry(key).outcome

    def folded(self) -> dict[str, StoredRow]:
        """The pure fold of the log and the decisions."""
        reading = self.events.read(self.log, dict.fromkeys(self.log, Progress()))
        folder = Folder(self.projection, self.decisions)
        touches, failure = folder.touches(reading.facts)
        assert failure is None
        changes = folder.fold(touches, {})
        assert not changes.parked
        return changes.upserts
