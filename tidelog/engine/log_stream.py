"""The log as a flow of events: a lane's records, judged and decoded once for all who fold them.

Pure. What is wrong with the log comes out as a value and stops its partition for everybody, and no
other partition. Whoever folds asks for the place from which it needs a partition; the stream reads
from the least place that anybody asked for, and who has more already passes it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from tidelog.engine.judge import Progress
from tidelog.engine.ports import MessageCodec
from tidelog.engine.reading import Batch, EventReader, Fact, Hole, ParkedRecord, Partition
from tidelog.errors import LogFork, LogHole, TidelogError
from tidelog.message import Context


class LogReader(Protocol):
    """Delivers the records of partitions, each in order, from where it is told to."""

    def read_from(self, partition: Partition, offset: int) -> None:
        """Begin to read the partition here, or go on from here."""
        ...

    def pause(self, partition: Partition) -> None:
        """Deliver nothing more of this partition until it is read from a place again."""
        ...


class Run(NamedTuple):
    """Events of one partition, in order and without a gap, and what lay among them.

    A parked record lies behind the event with the sequence that its `after` says.
    """

    partition: Partition
    facts: Sequence[Fact]
    parked: Sequence[ParkedRecord] = ()


class Taken(NamedTuple):
    """What a batch of records gave. `stopped` are the partitions that it stopped."""

    runs: list[Run]
    holes: list[Hole]
    stopped: dict[Partition, TidelogError]


class LogStream:
    """Judges and decodes records. One thread uses it.

    `progress` names the partitions that are read, and up to where their events were handed out.
    """

    def __init__(self, contexts: Iterable[Context], codec: MessageCodec, reader: LogReader) -> None:
        self.progress: dict[Partition, Progress] = {}
        self.stopped: dict[Partition, TidelogError] = {}
        self.forks: dict[Partition, LogFork] = {}
        self._events = EventReader(contexts, codec)
        self._reader = reader
        self._holes: dict[Partition, Hole] = {}

    def want(self, partition: Partition, progress: Progress) -> None:
        """Somebody needs the events behind `progress`: begin there, go back there, or do nothing.

        A place ahead of the stream is no reason to move: the stream gets there.
        """
        at = self.progress.get(partition)
        if at is None or progress.offset < at.offset:
            self.move(partition, progress)

    def move(self, partition: Partition, progress: Progress) -> None:
        """Hand out the events behind `progress` next."""
        self._reader.read_from(partition, progress.offset + 1)
        self.progress[partition] = progress
        self.stopped.pop(partition, None)

    def leave(self, partitions: Iterable[Partition]) -> None:
        """Forget the partitions: they are read elsewhere, or by nobody."""
        for partition in partitions:
            self.progress.pop(partition, None)
            self.stopped.pop(partition, None)
            self.forks.pop(partition, None)
            self._holes.pop(partition, None)

    def stop(self, partition: Partition, error: TidelogError) -> None:
        """Read no more of the partition."""
        self.stopped[partition] = error
        self._reader.pause(partition)

    def take(self, batch: Batch) -> Taken:
        """Judge and decode what was read.

        Where it cannot be decoded now (Unavailable: the registry does not answer), nothing was
        taken, and all of it is read again.
        """
        before = {at: self.progress[at] for at in batch if at in self.progress}
        try:
            return self._judged(batch)
        except Exception:
            for partition, progress in before.items():
                if partition not in self.stopped:
                    self.move(partition, progress)
            raise

    def _judged(self, batch: Batch) -> Taken:
        taken = Taken([], [], {})
        for partition, records in batch.items():
            if partition not in self.progress or partition in self.stopped:
                continue
            reading = self._events.read({partition: records}, self.progress)
            self.progress.update(reading.progress)
            self._note_forks(reading.parked)
            if reading.facts or reading.parked:
                taken.runs.append(Run(partition, reading.facts, reading.parked))
            for hole in reading.holes:
                taken.holes.append(hole)
                self._meet_hole(hole, taken)
        return taken

    def _note_forks(self, parked: Iterable[ParkedRecord]) -> None:
        for each in parked:
            if each.fork:
                where = f"{each.partition}, offset {each.record.offset}"
                self.forks[each.partition] = LogFork(f"{where}: {each.reason}")

    def _meet_hole(self, hole: Hole, taken: Taken) -> None:
        """Read again once from before it; the same hole again means that events are missing."""
        if self._holes.get(hole.partition) != hole:
            self._holes[hole.partition] = hole
            self.move(hole.partition, hole.progress)
            return
        expected = hole.progress.sequence + 1
        error = LogHole(
            f"{hole.partition}: sequence {expected} is missing, the next one is {hole.found}. "
            "Restore the topic; the read models stand before the gap."
        )
        self.stop(hole.partition, error)
        taken.stopped[hole.partition] = error
