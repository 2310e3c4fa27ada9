"""A log in lists and a small projection, for tests of feeds without any server."""

from __future__ import annotations

from tests.read_side import COUNTERS, Added, Counter
from tidelog import Projection
from tidelog.engine.ports import StoredRecord
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import Partition

LEFT, RIGHT = Partition("counters", 0), Partition("counters", 1)
TOPICS = {"counters": TopicInfo("topic", 2)}
FAILING, REFUSED = -1, 13


def evolve(row: Counter | None, event: Added) -> Counter:
    if event.by == FAILING:
        raise ValueError("a bug")
    return Counter(counter_id=event.counter_id, total=(row.total if row else 0) + event.by)


counter = Projection(
    name="counter", version=1, contexts=[COUNTERS], row=Counter, key="counter_id", evolve=evolve
)


class ListReader:
    """A log in lists; it delivers from where it was told to."""

    def __init__(self, logs: dict[Partition, list[StoredRecord]]) -> None:
        self.logs = logs
        self.offsets: dict[Partition, int] = {}

    def read_from(self, partition: Partition, offset: int) -> None:
        """Deliver from this offset on."""
        self.offsets[partition] = offset

    def pause(self, partition: Partition) -> None:
        """Deliver nothing more."""
        del self.offsets[partition]

    def poll(self, records_max: int = 1_000) -> dict[Partition, list[StoredRecord]]:
        """What is there, up to a bound for each partition."""
        batch = {}
        for at, offset in self.offsets.items():
            found = [each for each in self.logs[at] if each.offset >= offset][:records_max]
            if found:
                batch[at] = found
                self.offsets[at] = found[-1].offset + 1
        return batch
