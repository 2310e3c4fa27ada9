"""Given several feeds over one log and any trouble, each ends at the fold of the log."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from tests.list_log import LEFT, RIGHT, TOPICS, ListReader, counter
from tests.read_side import CODEC, COUNTERS, Added, record
from tidelog.engine.folding import Folder, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.log_stream import LogStream, Run
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projecting import Feed
from tidelog.engine.projection_store import Applied, Overtaken, Step, Written
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.errors import Unavailable
from tidelog.memory.projection_store import MemoryProjectionStore, MemoryTables


class WatchedStore(MemoryProjectionStore):
    """Fails, loses answers and is overtaken at random; progress must only ever move on."""

    def __init__(self, tables: MemoryTables, chance: random.Random) -> None:
        super().__init__(counter, tables)
        self._chance = chance
        self.folded: list[tuple[Partition, int]] = []
        self.calm = False

    def apply(self, step: Step) -> Applied:
        """As in memory, with the troubles of the world."""
        fate = 1.0 if self.calm else self._chance.random()
        if fate < 0.1:
            raise Unavailable("not now")
        if fate < 0.15:
            return Overtaken()
        before = self.progress()
        applied = super().apply(step)
        if isinstance(applied, Written):
            self.folded += [(fact.partition, fact.sequence) for fact in step.facts]
            after = self.progress()
            assert all(after[at] >= before[at] for at in before), "progress moved back"
        if fate < 0.25:
            raise Unavailable("written, and the answer is lost")
        return applied


Logs = Mapping[Partition, Sequence[StoredRecord]]


class Runner:
    """A feed with a queue, as a thread has it, driven step by step."""

    def __init__(self, tables: MemoryTables, chance: random.Random) -> None:
        self.store = WatchedStore(tables, chance)
        self.store.open(TOPICS)
        self.wants: dict[Partition, Progress] = {}
        self.queue: list[Run] = []
        self.accepting = True
        self.feed = Feed("counter", Folder(counter), self.store, self.wants.__setitem__)

    def open(self) -> None:
        """Take events again; what came meanwhile was dropped."""
        if not self.accepting:
            self.accepting = True
            self.feed.doubt()

    def step(self, runs_max: int) -> None:
        taken, self.queue = self.queue[:runs_max], self.queue[runs_max:]
        try:
            self.feed.settle()
            if self.feed.step(taken).overtaken:
                self.feed.doubt()
        except Unavailable:
            self.feed.doubt()


def random_log(chance: random.Random, at: Partition, events: int) -> list[StoredRecord]:
    """Events with gaps in the offsets, and records between them that are not ours."""
    log: list[StoredRecord] = []
    offset = 0
    for sequence in range(1, events + 1):
        offset += chance.choice([1, 1, 1, 2, 5])
        if chance.random() < 0.1:
            log.append(StoredRecord(offset, b"odd", b"not ours", []))
            offset += 1
        if log and chance.random() < 0.03:
            # A fork: its sequence was given before.
            log.append(record(Added(counter_id="f", by=1), offset=offset, sequence=1, version=1))
            offset += 1
        event = Added(counter_id=f"{at.number}-{chance.randrange(5)}", by=sequence)
        log.append(record(event, offset=offset, sequence=sequence, version=sequence))
    return log


@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_each_feed_ends_at_the_fold_and_folds_each_event_once(seed: int) -> None:
    chance = random.Random(seed)
    logs = {at: random_log(chance, at, chance.randrange(20, 80)) for at in (LEFT, RIGHT)}
    # Two of the feeds write the same tables, as in two processes.
    shared = MemoryTables()
    runners = [Runner(tables, chance) for tables in (shared, shared, MemoryTables())]
    reader = ListReader({at: log[: len(log) // 2] for at, log in logs.items()})
    stream = LogStream([COUNTERS], CODEC, reader)
    for runner in runners:
        runner.feed.assigned(logs)

    def turn() -> None:
        for runner in runners:
            while runner.wants:
                stream.want(*runner.wants.popitem())
        if all(len(runner.queue) < 4 for runner in runners if runner.accepting):
            runs = stream.take(reader.poll(chance.randrange(1, 12))).runs
            for runner in runners:
                runner.queue += runs if runner.accepting else []
        for runner in runners:
            if runner.accepting and chance.random() < 0.6:
                runner.step(chance.randrange(1, 4))

    for _ in range(120):
        turn()
        if chance.random() < 0.2:
            make_trouble(chance, runners, stream, logs)
    reader.logs = logs
    for runner in runners:
        runner.store.calm = True
        runner.open()
    for _ in range(400):
        turn()

    for runner in runners:
        assert runner.store.rows() == folded(logs)
    for own in ([*runners[0].store.folded, *runners[1].store.folded], runners[2].store.folded):
        assert len(own) == len(set(own)) == sum(at.sequence for at in end(logs).values())
    assert shared.parked.keys() <= {(at, each.offset) for at in logs for each in logs[at]}
    assert stream.stopped == {}


def make_trouble(
    chance: random.Random, runners: Sequence[Runner], stream: LogStream, logs: Logs
) -> None:
    """A rebalance, another lane, or events from anywhere."""
    runner, at = chance.choice(runners), chance.choice([LEFT, RIGHT])
    match chance.randrange(6):
        case 0:
            runner.feed.released([at])
            runner.feed.assigned([at])
        case 1:
            stream.leave([at])
            for each in runners:
                each.feed.resume()
        case 2:
            runner.feed.resume()
        case 3:
            runner.accepting, runner.queue = False, []
        case 4:
            runner.open()
        case _:
            runner.queue.insert(0, Run(at, facts_of(logs[at], at)[chance.randrange(20) :]))


def facts_of(log: Sequence[StoredRecord], at: Partition) -> list[Fact]:
    return EventReader([COUNTERS], CODEC).read({at: log}, {at: Progress()}).facts


def end(logs: Logs) -> dict[Partition, Progress]:
    last = {at: facts_of(log, at)[-1] for at, log in logs.items()}
    return {at: Progress(fact.sequence, fact.offset) for at, fact in last.items()}


def folded(logs: Logs) -> dict[str, StoredRow]:
    folder = Folder(counter)
    every = [fact for at, log in logs.items() for fact in facts_of(log, at)]
    return folder.fold(folder.touches(every)[0], {}).upserts
