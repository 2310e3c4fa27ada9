"""How far a read model is behind the log: exact, in records and in seconds, with a trend.

Pure. What the database and the log say comes in; what a person is told comes out. The same
arithmetic stands behind `GET /projections`, `tidelog lag` and the metrics of the projectors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition

# An event that waits longer than this is more than what is in flight in a working system.
CATCHING_UP_S = 5.0
# A lag that is this old, and that nobody has worked off for so long, is a stall.
STALLED_S = 15.0
# The trend compares the lag now with the lag this long ago.
TREND_WINDOW_S = 30.0
# Less than this many records, and less than this part of the lag, is no change.
TREND_RECORDS_MIN = 10
TREND_PART_MIN = 0.1

Trend = Literal["growing", "steady", "shrinking"]


class Place(NamedTuple):
    """One partition of one generation of a projection."""

    projection: str
    version: int
    generation: int
    partition: Partition


class StoredPosition(NamedTuple):
    """Where a generation stands in a partition, and for how many seconds it has stood there."""

    progress: Progress
    unmoved_s: float


@dataclass(frozen=True, kw_only=True)
class StoredGeneration:
    """A generation of a read model as the database has it, all in one snapshot.

    `number` 0 is a projection that no projector has begun yet. `feeders` counts the connections
    that feed it now, `watchers` the projector processes: a feed that has had nothing to write since
    PostgreSQL came back has no connection. `parked` counts the rows whose events wait.
    `needs_rebuild` says why only a rebuild makes it what it should be; mostly nothing does.
    """

    projection: str
    version: int
    number: int
    serving: bool
    state: str
    feeders: int
    watchers: int
    parked: int
    positions: Mapping[Partition, StoredPosition]
    needs_rebuild: str = ""

    @property
    def table(self) -> str | None:
        """The name of its table, or None where there is none yet."""
        return f"{self.projection}__v{self.version}_g{self.number}" if self.number else None


class LogView(NamedTuple):
    """What the log says.

    `ends` are the last sequences that readers see; `times` tells when the first event after a
    stored progress was written; `held_s` for how long readers have stood before the same open
    transaction, which hides what is behind it.
    """

    at: datetime
    ends: Mapping[Partition, int]
    times: Mapping[tuple[Partition, Progress], datetime]
    held_s: Mapping[Partition, float] = {}


@dataclass(frozen=True, kw_only=True)
class PartitionLag:
    """What one generation misses of one partition.

    `records` is a difference of sequences. `seconds` is the age of the oldest event that is not
    folded in, by log time; 0 where nothing is missing. `beyond` counts events that the read model
    holds and the log has no more: the log was cut.
    """

    partition: Partition
    sequence: int
    end: int
    seconds: float
    unmoved_s: float
    trend: Trend | None = None
    held_s: float = 0.0

    @property
    def records(self) -> int:
        """Events in the log that are not folded in."""
        return max(self.end - self.sequence, 0)

    @property
    def beyond(self) -> int:
        """Events that are folded in and that the log has no more."""
        return max(self.sequence - self.end, 0)

    @property
    def stalled(self) -> bool:
        """Whether events wait for long and nothing has moved for as long."""
        return self.held or self.waiting

    @property
    def waiting(self) -> bool:
        """Whether events that readers see have not been folded in for long."""
        return self.records > 0 and min(self.seconds, self.unmoved_s) >= STALLED_S

    @property
    def held(self) -> bool:
        """Whether the log hides its last records from all readers for long."""
        return self.held_s >= STALLED_S


@dataclass(frozen=True, kw_only=True)
class GenerationLag:
    """What one generation misses of the log, and how it fares."""

    stored: StoredGeneration
    partitions: Sequence[PartitionLag]
    trend: Trend | None
    status: str

    @property
    def records(self) -> int:
        """Events in the log that are not folded in, over all partitions."""
        return sum(each.records for each in self.partitions)

    @property
    def seconds(self) -> float:
        """The age of the oldest event that is not folded in."""
        return max((each.seconds for each in self.partitions), default=0.0)

    @property
    def stalled(self) -> list[PartitionLag]:
        """The partitions that do not move."""
        return [each for each in self.partitions if each.stalled]

    def problems(self) -> list[str]:
        """What a person should look at, with where to look; empty where all is well."""
        name = self.stored.table or self.stored.projection
        found = [
            f"{name} stalls at {each.partition}:{each.sequence}: {each.records} events wait, the "
            f"oldest for {each.seconds:.0f} s, and nothing was folded for {each.unmoved_s:.0f} s. "
            "See when-a-read-model-lags.md."
            for each in self.partitions
            if each.waiting
        ]
        found += [
            f"{name}: no reader sees {each.partition} beyond {each.end}, because of a transaction "
            f"that is open for {each.held_s:.0f} s. See when-a-read-model-lags.md; abort nothing."
            for each in self.partitions
            if each.held
        ]
        found += [
            f"{name} holds {each.partition}:{each.sequence}, but the log ends at {each.end}: the "
            "log has lost events. Restore the topic."
            for each in self.partitions
            if each.beyond
        ]
        return found

    def item(self) -> dict[str, Any]:
        """The generation as lists show it."""
        stored = self.stored
        return {
            "name": stored.projection,
            "version": stored.version,
            "generation": stored.number,
            "table": stored.table,
            "positions": {str(each.partition): each.sequence for each in self.partitions},
            "lag": self.records,
            "lag_seconds": round(self.seconds, 3),
            "status": self.status,
            "serving": stored.serving,
            "trend": self.trend,
            "parked": stored.parked,
            "stalled": [str(each.partition) for each in self.stalled],
            "needs_rebuild": stored.needs_rebuild or None,
        }

    def partition_items(self) -> list[dict[str, Any]]:
        """Its partitions as lists show them."""
        stored = self.stored
        return [
            {
                "name": stored.projection,
                "version": stored.version,
                "generation": stored.number,
                "partition": str(each.partition),
                "position": each.sequence,
                "end": each.end,
                "lag": each.records,
                "lag_seconds": round(each.seconds, 3),
                "trend": each.trend,
                "stalled": each.stalled,
            }
            for each in self.partitions
        ]


@dataclass
class LagHistory:
    """The lags that were seen within the window, so that a trend can be told."""

    window_s: float = TREND_WINDOW_S
    _seen: dict[Place, deque[tuple[datetime, int]]] = field(default_factory=dict)

    def note(self, at: datetime, lags: Mapping[Place, int]) -> None:
        """Take in what was seen at this moment; places that are gone are forgotten."""
        for place in self._seen.keys() - lags.keys():
            del self._seen[place]
        for place, records in lags.items():
            samples = self._seen.setdefault(place, deque())
            samples.append((at, records))
            while (at - samples[0][0]).total_seconds() > self.window_s:
                samples.popleft()

    def trend(self, places: Collection[Place]) -> Trend | None:
        """How the lag of these places, together, has changed; None before two samples of each."""
        seen = [self._seen[place] for place in places]
        if not seen or min(len(samples) for samples in seen) <= 1:
            return None
        before = sum(samples[0][1] for samples in seen)
        return trend(before, sum(samples[-1][1] for samples in seen))


def trend(before: int, now: int) -> Trend:
    """How a lag has changed: small changes are none."""
    change, larger = now - before, max(before, now)
    if abs(change) < max(TREND_RECORDS_MIN, TREND_PART_MIN * larger):
        return "steady"
    return "growing" if change > 0 else "shrinking"


def measure(
    generations: Sequence[StoredGeneration],
    log: LogView,
    history: LagHistory,
    declared: Mapping[str, int],
) -> list[GenerationLag]:
    """The lag of every generation. `declared` gives the version of each projection in use."""
    history.note(
        log.at,
        {
            _place(each, at): max(log.ends.get(at, 0) - position.progress.sequence, 0)
            for each in generations
            for at, position in each.positions.items()
        },
    )
    current = {(each.projection, each.version) for each in generations if each.number}
    return [
        _measured(
            each,
            log,
            history,
            outdated=bool(each.needs_rebuild) or _has_to_be_rebuilt(each, declared, current),
            fed=_is_fed(each, declared),
        )
        for each in generations
    ]


def _measured(
    stored: StoredGeneration, log: LogView, history: LagHistory, *, outdated: bool, fed: bool
) -> GenerationLag:
    partitions = [
        _partition_lag(stored, at, position, log, history)
        for at, position in sorted(stored.positions.items())
    ]
    return GenerationLag(
        stored=stored,
        partitions=partitions,
        trend=history.trend([_place(stored, at) for at in stored.positions]),
        status=_status(stored, partitions, outdated=outdated, fed=fed),
    )


def _partition_lag(
    stored: StoredGeneration,
    at: Partition,
    position: StoredPosition,
    log: LogView,
    history: LagHistory,
) -> PartitionLag:
    sequence, end = position.progress.sequence, log.ends.get(at, 0)
    oldest = log.times.get((at, position.progress)) if end > sequence else None
    seconds = max((log.at - oldest).total_seconds(), 0.0) if oldest else 0.0
    return PartitionLag(
        partition=at,
        sequence=sequence,
        end=end,
        seconds=seconds,
        unmoved_s=position.unmoved_s,
        trend=history.trend([_place(stored, at)]),
        held_s=log.held_s.get(at, 0.0),
    )


def _status(
    stored: StoredGeneration, partitions: Sequence[PartitionLag], *, outdated: bool, fed: bool
) -> str:
    """One word for how it fares: the first that holds, the gravest first."""
    if stored.state == "loading":
        return "loading"
    if outdated:
        return "needs-rebuild"
    if not fed:
        return "stopped"
    if any(each.stalled for each in partitions):
        return "stalled"
    if stored.parked:
        return f"parked {stored.parked}"
    if max((each.seconds for each in partitions), default=0.0) > CATCHING_UP_S:
        return "catching-up"
    return "live"


def _is_fed(stored: StoredGeneration, declared: Mapping[str, int]) -> bool:
    """Whether somebody feeds it: a feed, or a projector process, which feeds what is declared."""
    if stored.feeders:
        return True
    is_declared = declared.get(stored.projection) == stored.version
    return stored.watchers > 0 and stored.number > 0 and is_declared


def _has_to_be_rebuilt(
    stored: StoredGeneration, declared: Mapping[str, int], current: Collection[tuple[str, int]]
) -> bool:
    """Whether it serves although another version is declared, which has no table yet."""
    wanted = declared.get(stored.projection, stored.version)
    return (
        stored.serving and wanted != stored.version and (stored.projection, wanted) not in current
    )


def _place(stored: StoredGeneration, at: Partition) -> Place:
    return Place(stored.projection, stored.version, stored.number, at)
