"""What a proof compares, and where a difference begins.

A row that differs is looked at event by event: the log is read again for these rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from tidelog.codec import Codec
from tidelog.engine.bulk import limits
from tidelog.engine.bulk_reading import BulkReader, Item, Shard, shards_of
from tidelog.engine.differing import Cause, History, cause, differing
from tidelog.engine.folding import StoredRow, row_owner
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.partitioner import partition_of
from tidelog.position import Position
from tidelog.projection import Projection
from tidelog.rebuild.loading import settle, stretch
from tidelog.rebuild.workers import World

ROWS_MAX = 400_000
"""How many rows a worker compares at once; a larger read model is read in more shards."""
DIFFERENCES_MAX = 20
"""How many differing rows are looked at closely."""
KEY_EVENTS_MAX = 5_000
"""How many events of one row are folded one by one to find where it differs."""


class Difference(NamedTuple):
    """A row that is not what its events make; None where it is not there.

    `failure` is an event that cannot be folded although the key is not parked, and why.
    """

    key: str
    expected: StoredRow | None
    found: StoredRow | None
    failure: tuple[Partition, int, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What one snapshot of the database says of a generation. The name is how others see it.

    Of the parked rows those are `stale` that are about to be folded again from the beginning.
    """

    name: str
    rows: int
    positions: Mapping[Partition, Progress]
    parked: Mapping[str, Mapping[Partition, Progress]]
    stale: frozenset[str] = frozenset()

    @property
    def targets(self) -> dict[Partition, int]:
        """Up to which sequence of each partition the log is folded again."""
        return {at: progress.sequence for at, progress in self.positions.items()}


def shards_with(
    projection: Projection[Any, Any],
    snapshot: Snapshot,
    workers: int,
    keys: Sequence[str] | None,
) -> list[Shard]:
    """The shards in which all rows, or those of some keys, are folded again."""
    partitions = sorted(snapshot.positions)
    if keys is None:
        return shards_of(projection, partitions, max(workers, -(-snapshot.rows // ROWS_MAX)))
    wanted = frozenset(key.encode() for key in keys)
    if row_owner(projection) is None:
        return [Shard(number=0, partitions=tuple(partitions), keys=wanted)]
    count = max(at.number for at in partitions) + 1
    homes = sorted({partition_of(key, count) for key in keys})
    context = partitions[0].context
    return [
        Shard(number=number, partitions=(Partition(context, home),), keys=wanted)
        for number, home in enumerate(homes)
    ]


def _merged(differences: Sequence[Difference]) -> list[Difference]:
    """A row whose position is wrong is missing in one shard and too many in another: one matter."""
    merged: dict[str, Difference] = {}
    for key, expected, found, failure in differences:
        known = merged.get(key, Difference(key, None, None))
        merged[key] = Difference(
            key, known.expected or expected, known.found or found, known.failure or failure
        )
    return list(merged.values())[:DIFFERENCES_MAX]


def first_difference(
    world: World,
    projection: Projection[Any, Any],
    snapshot: Snapshot,
    differences: Sequence[Difference],
) -> dict[str, Any] | None:
    """The difference that goes back furthest, with the event after which it is there."""
    merged = _merged(differences)
    if not merged:
        return None
    with world.site.codec(projection) as codec:
        keys = [each.key for each in merged]
        histories = _histories(world, projection, snapshot, codec, keys)
        causes = [
            (each, _cause(projection, codec, histories.get(each.key, []), each)) for each in merged
        ]
    difference, why = min(causes, key=_age)
    position = None
    if why.item is not None and why.partition is not None:
        position = str(Position(*why.partition, why.item.sequence))
    return {
        "key": difference.key,
        "position": position,
        "type": why.item.kind if why.item is not None else None,
        "reason": why.reason,
        "columns": differing(difference.expected, difference.found)
        if difference.expected or difference.found
        else [],
        "expected": shown_row(difference.expected),
        "found": shown_row(difference.found),
    }


def _cause(
    projection: Projection[Any, Any], codec: Codec, history: History, difference: Difference
) -> Cause:
    if difference.failure is None:
        return cause(projection, codec, history, difference.found)
    failed, sequence, reason = difference.failure
    found = [each for each in history if each[0] == failed and each[1].sequence == sequence]
    return Cause(*found[0], reason) if found else Cause(None, None, reason)


def _age(one: tuple[Difference, Cause]) -> tuple[bool, str, str]:
    """Sorts by log time; what no event explains comes last."""
    difference, why = one
    return why.item is None, why.item.time.isoformat() if why.item else "", difference.key


def _histories(
    world: World,
    projection: Projection[Any, Any],
    snapshot: Snapshot,
    codec: Codec,
    keys: Sequence[str],
) -> dict[str, History]:
    """The events of these rows, as far as the fold takes them."""
    waiting = limits(snapshot.parked)
    found: dict[str, list[tuple[Partition, Item]]] = {}
    for shard in shards_with(projection, snapshot, 1, keys):
        reader = BulkReader(projection, shard, codec, world.decisions)
        progress = dict.fromkeys(shard.partitions, Progress())
        with stretch(world, progress, snapshot.targets) as log:
            for at, records in log.chunks():
                target = snapshot.targets[at]
                items, progress[at] = reader.read(at, records, progress[at], target)
                for item in items:
                    limit = waiting.get(item.key, {}).get(at, target)
                    history = found.setdefault(item.key, [])
                    if item.sequence <= limit and len(history) < KEY_EVENTS_MAX:
                        history.append((at, item))
                settle(log, at, records, progress[at], target)
    return dict(found.items())


def shown_row(stored: StoredRow | None) -> dict[str, Any] | None:
    """A row as JSON shows it."""
    if stored is None:
        return None
    kept = stored._asdict()
    row = kept.pop("row")
    return {**msgspec.to_builtins(row), **msgspec.to_builtins(kept)}
