"""Where a row parts from its events: the first event after which the two differ.

Pure. Only the row as it is now is known, so the events are folded step by step, and what would
explain the row is looked for: events that are missing at its end, one that was left out, or values
that no event gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tidelog.engine.bulk import BulkFold
from tidelog.engine.bulk_reading import Item, Shard
from tidelog.engine.folding import StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.ports import MessageCodec
from tidelog.engine.reading import Partition
from tidelog.projection import Projection

LEFT_OUT_EVENTS_MAX = 300
"""With more events than this, no single one is looked for that might have been left out."""

History = Sequence[tuple[Partition, Item]]
"""The events of one row, in the order in which they are folded."""


class Cause(NamedTuple):
    """The first event after which row and events differ, and in which way."""

    partition: Partition | None
    item: Item | None
    reason: str


def cause(
    projection: Projection[Any, Any], codec: MessageCodec, history: History, found: StoredRow | None
) -> Cause:
    """Why the row that was found is not what its events make."""
    if not history:
        return Cause(None, None, "no event of the log makes this row")
    states = _states(projection, codec, history)
    for n in range(len(history) - 1, -1, -1):
        if states[n] == found:
            return Cause(*history[n], "the row holds its events up to here; this one is missing")
    if len(history) <= LEFT_OUT_EVENTS_MAX:
        for n in range(len(history)):
            if _states(projection, codec, [*history[:n], *history[n + 1 :]])[-1] == found:
                return Cause(*history[n], "the row holds every event but this one")
    return _no_such_row(history, states, found)


def _no_such_row(
    history: History, states: Sequence[StoredRow | None], found: StoredRow | None
) -> Cause:
    """The event that gave the differing columns the values that they should have."""
    names = differing(states[-1], found)
    last = len(history) - 1
    for n in range(last, -1, -1):
        if any(_value(states[n + 1], name) != _value(states[n], name) for name in names):
            last = n
            break
    return Cause(*history[last], f"no events make this row; it differs in {', '.join(names)}")


def differing(expected: StoredRow | None, found: StoredRow | None) -> list[str]:
    """The columns in which two rows differ; all of them where one is not there."""
    one = expected or found
    assert one is not None, "two rows that are not there do not differ"
    names = [*one.row.__struct_fields__, *StoredRow._fields[1:]]
    return [name for name in names if _value(expected, name) != _value(found, name)]


def _value(stored: StoredRow | None, name: str) -> Any:
    if stored is None:
        return None
    return getattr(stored if name in StoredRow._fields[1:] else stored.row, name)


def _states(
    projection: Projection[Any, Any], codec: MessageCodec, history: History
) -> list[StoredRow | None]:
    """The row before the first event, and after each; one that cannot be folded ends its growth."""
    partitions = tuple(dict.fromkeys(at for at, _ in history))
    fold = BulkFold(
        projection,
        Shard(number=0, partitions=partitions),
        codec,
        progress=dict.fromkeys(partitions, Progress()),
    )
    states: list[StoredRow | None] = [None]
    for at, item in history:
        fold.fold(at, [item])
        states.append(next(iter(fold.rows().values()), None))
    return states
