"""Answers that are kept for exactly as long as nothing has changed what they show.

There is no time to live. The query service tells, in one stream, which partitions of which read
model have been written (`GET /positions/live`), and an answer is forgotten when one is named that
its rows are folded from. Three things make that exact:

- *Every change is told after it can be read.* A projector's transaction carries the notice of its
  partitions, and PostgreSQL delivers it once the rows are visible. A retry of a parked row, which
  changes rows where no position moves, tells its partitions as well; so what is named has changed,
  whatever its number. A switch of generations or a database that came back tells all anew.
- *What was heard is counted, and the count is taken before the query service is asked.* The rows
  are read after that. What changes them later than they were read is heard later than the count
  was taken: before the answer is here, and it is not kept, or after, and it is forgotten. No
  matter which process of the query service answers, and how late it hears of anything itself.
- *Silence is not peace.* The stream says every second that PostgreSQL still answers. Where it ends
  or says nothing for SILENCE_S everything is forgotten, and nothing is kept until all positions
  have come again.

To be kept an answer must also say (`X-As-Of`) that it is as of those very positions that are known
here. That adds nothing as long as all is well; it keeps out a process that looks at another
database, such as a primary that has been replaced, or at one that it has not heard of for a while.

Answers tell news as well. One that is as of later positions than are known shows that they were
reached, whatever is still on its way. Of two that were asked for at once and differ nobody can tell
which is older: neither is kept, nor anything that was asked for before. So a caller who is shown a
row is not shown an older one from here afterwards.

Everything here is pure but for the clock that is given; `gateway/positions.py` listens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from tidelog.engine.reading import Partition
from tidelog.http.asgi import HeaderList
from tidelog.partitioner import partition_of

SILENCE_S: Final = 3.0
"""After so long without a word nothing is known any more."""

BODY_BYTES_MAX: Final = 64 * 1024
"""A body that is larger is not kept."""

ENTRY_BYTES: Final = 1_024
"""What an entry costs beside the bytes of its key, its headers and its body, at most."""

Reached = Mapping[Partition, int]


class Depends(NamedTuple):
    """What an answer shows: a read model, as far as it is folded from one partition or from all."""

    projection: str
    at: Partition | None = None


class Positions:
    """What is known of how far the read models are, and in which order it was heard."""

    def __init__(self) -> None:
        self.moment = 0
        """How much was heard so far. It only grows."""

        self._begun: int | None = None
        self._proved_at = 0.0
        self._partitions = 1
        self._reached: dict[str, dict[Partition, int]] = {}
        self._moved: dict[Depends, int] = {}

    def begin(self, read_models: Mapping[str, Reached], partitions: int, now: float) -> None:
        """All positions, and how many partitions a context has. What was known before is void."""
        self.moment += 1
        self._begun = self.moment
        self._proved_at = now
        self._partitions = partitions
        self._reached = {name: dict(reached) for name, reached in read_models.items()}
        self._moved = {}

    def moved(self, projection: str, reached: Reached) -> None:
        """Rows that are folded from these partitions may have changed."""
        self.moment += 1
        self._reached.setdefault(projection, {}).update(reached)
        self._moved[Depends(projection)] = self.moment
        for at in reached:
            self._moved[Depends(projection, at)] = self.moment

    def proved(self, now: float) -> None:
        """All that has happened until now was told, but for what is on its way."""
        self._proved_at = now

    def learn(self, projection: str, as_of: str) -> None:
        """An answer is as of these positions: the read model has reached them."""
        known = self._reached.get(projection, {})
        said = read_positions(as_of)
        ahead = {at: to for at, to in said.items() if at in known and to > known[at]}
        if ahead:
            self.moved(projection, ahead)

    def doubt(self, depends: Depends) -> None:
        """It may have changed, though nothing was heard of it yet."""
        self.moment += 1
        self._moved[depends] = self.moment

    def lost(self) -> None:
        """What happens is not heard any more."""
        self._begun = None

    def known(self, now: float) -> bool:
        """Whether what is known is all that has happened, but for what is on its way."""
        return self._begun is not None and now - self._proved_at <= SILENCE_S

    def home(self, projection: str, context: str, key: str) -> Depends:
        """What the row of this key is folded from: the key's partition of the context."""
        return Depends(projection, Partition(context, partition_of(key, self._partitions)))

    def unchanged(self, depends: Depends, since: int) -> bool:
        """Whether nothing was heard of it since that moment."""
        if self._begun is None or since < self._begun:
            return False
        return self._moved.get(depends, 0) <= since

    def agrees(self, depends: Depends, as_of: str) -> bool:
        """Whether the answer is as of what is known here."""
        known, said = self._reached.get(depends.projection, {}), read_positions(as_of)
        if depends.at is None:
            return bool(known) and said == known
        return depends.at in known and said.get(depends.at) == known[depends.at]


class Entry(NamedTuple):
    """An answer that is kept."""

    depends: Depends
    asked_at: int
    """The moment before the query service was asked."""

    headers: HeaderList
    tag: str
    body: bytes


class Cache:
    """The answers that are kept, by path and query; the one that was not asked for longest goes."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self.positions = Positions()
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, read_models: Mapping[str, Reached], partitions: int, now: float) -> None:
        """All positions have come: nothing from before holds."""
        self.positions.begin(read_models, partitions, now)
        self._entries.clear()
        self.bytes = 0

    def find(self, key: bytes) -> Entry | None:
        """The answer, where it holds. One that does not is forgotten."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not self.positions.unchanged(entry.depends, entry.asked_at):
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def holds(self, key: bytes) -> bool:
        """Whether something is kept under the key, good or not."""
        return key in self._entries

    def keep(self, key: bytes, entry: Entry, as_of: str) -> bool:
        """Keep the answer; False where it may be out of date already, or is too large.

        The caller is shown it all the same, so nothing older may be shown from here afterwards.
        """
        size = _size(key, entry)
        if len(entry.body) > BODY_BYTES_MAX or size > self.bytes_max:
            return False
        self.positions.learn(entry.depends.projection, as_of)
        there = self.find(key)
        if there is not None and there.body == entry.body:
            return True
        if (
            there is not None
            or not self.positions.unchanged(entry.depends, entry.asked_at)
            or not self.positions.agrees(entry.depends, as_of)
        ):
            self.positions.doubt(entry.depends)
            return False
        self._entries[key] = entry
        self.bytes += size
        while self.bytes > self.bytes_max:
            self._forget(next(iter(self._entries)))
        return True

    def _forget(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _size(key, entry)


def _size(key: bytes, entry: Entry) -> int:
    headers = sum(len(name) + len(value) for name, value in entry.headers)
    return ENTRY_BYTES + len(key) + headers + len(entry.body)


def read_positions(token: str) -> dict[Partition, int]:
    """The positions of a token of ours, however many; nothing of one that is none."""
    found: dict[Partition, int] = {}
    for position in token.split(","):
        context, _, numbers = position.partition(":")
        number, _, sequence = numbers.partition(":")
        if not (number.isdecimal() and sequence.isdecimal()):
            return {}
        found[Partition(context, int(number))] = int(sequence)
    return found
