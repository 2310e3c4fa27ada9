"""Following partitions record by record, whatever the deliverer loses or repeats. Pure.

Whoever delivers the records may lose some, give some twice and begin again anywhere: the sequence
tells. An event is taken in exactly when it is the partition's next. After a hole the deliverer is
asked to read again from behind the last event that was taken in.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from projectors.live.figures import DURATION_S_MAX
from schemas.orders import OrderCancelled, OrderConfirmed, OrderPlaced
from tidelog.engine.judge import Progress
from tidelog.engine.ports import StoredRecord
from tidelog.engine.reading import EventReader, Fact, Partition

REREADS_MAX: Final = 3
"""How often a hole is read again at once; after that only as often as `reread` is called."""

LATE_S_MAX: Final = 60
"""By how much the log times of neighbours in a partition may be out of order."""

OPEN_ORDERS_MAX: Final = 200_000
"""Orders per partition whose placing is remembered; beyond that the oldest are forgotten."""


@dataclass
class _Place:
    """Where the reader of one partition stands."""

    progress: Progress
    seen: int = -1  # the offset that came last, taken in or not
    passed: int = -1  # the last offset that was counted as not ours
    rereads: int = 0  # since the last event that was taken in
    hole: bool = False  # just found, and not read again yet
    awaits_reread: bool = False  # what still comes was under way before the rewind


class Follower:
    """Follows partitions from given places on."""

    def __init__(self, reader: EventReader, begin: Mapping[Partition, Progress]) -> None:
        self._reader = reader
        self._places = {at: _Place(progress) for at, progress in begin.items()}
        self.counts: Counter[str] = Counter()

    def progress(self) -> dict[Partition, Progress]:
        """The last event that was taken in from each partition."""
        return {at: place.progress for at, place in self._places.items()}

    def next_offset(self, at: Partition) -> int:
        """Where the partition is to be read on, or again."""
        return self._places[at].progress.offset + 1

    def take(self, at: Partition, record: StoredRecord) -> Fact | None:
        """The event, if it is the partition's next one; else it is counted as what it is."""
        place = self._places[at]
        if place.awaits_reread and record.offset > place.seen:
            place.seen = record.offset
            self.counts["out_of_turn"] += 1
            return None
        place.awaits_reread = False
        place.seen = record.offset
        reading = self._reader.read({at: (record,)}, {at: place.progress})
        if reading.facts:
            place.progress = reading.progress[at]
            place.rereads = 0
            self.counts["taken"] += 1
            return reading.facts[0]
        self.counts["redelivered"] += reading.redelivered
        if reading.parked and record.offset > place.passed:
            place.passed = record.offset
            self.counts["forks" if reading.parked[0].fork else "foreign"] += 1
        if reading.holes:
            place.hole = place.awaits_reread = True
            self.counts["holes"] += 1
        return None

    def hole(self, at: Partition) -> bool:
        """Whether the partition is to be read again at once because of a hole just found."""
        place = self._places[at]
        return place.hole and place.rereads < REREADS_MAX

    def reread(self, at: Partition) -> int:
        """The partition is read again from the offset that this returns."""
        place = self._places[at]
        place.hole = False
        place.rereads += 1
        self.counts["rereads"] += 1
        return place.progress.offset + 1

    def begin_again(self, at: Partition) -> int:
        """Like `reread`, where nothing that was under way can come any more."""
        self._places[at].awaits_reread = False
        return self.reread(at)

    def problems(self) -> list[str]:
        """The partitions that cannot go on, and why."""
        return [
            f"{at}: no event follows sequence {place.progress.sequence}, "
            f"though the log goes on; read again {place.rereads} times"
            for at, place in self._places.items()
            if place.rereads >= REREADS_MAX
        ]


class OpenOrders:
    """When each order of one partition was placed that may still be confirmed soon enough."""

    def __init__(self) -> None:
        self._placed: OrderedDict[str, datetime] = OrderedDict()
        self._newest: datetime | None = None

    def __len__(self) -> int:
        return len(self._placed)

    def placed_at(self, fact: Fact) -> datetime | None:
        """When the order of an OrderConfirmed was placed; all others are remembered or ignored."""
        match fact.event:
            case OrderPlaced(order_id=order_id):
                self._remember(order_id, fact.recorded_at)
            case OrderConfirmed(order_id=order_id) | OrderCancelled(order_id=order_id):
                return self._placed.pop(order_id, None)
        return None

    def _remember(self, order_id: str, time: datetime) -> None:
        self._placed[order_id] = time
        self._newest = time if self._newest is None else max(time, self._newest)
        oldest = self._newest - timedelta(seconds=DURATION_S_MAX + LATE_S_MAX)
        while len(self._placed) > OPEN_ORDERS_MAX or next(iter(self._placed.values())) < oldest:
            self._placed.popitem(last=False)
            if not self._placed:
                return
