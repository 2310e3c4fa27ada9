"""Heeding: decisions that become known after their event was folded reach back.

Without I/O of its own. A generation keeps, beside each of its positions, which decisions its rows
of that partition have heeded. Whoever knows of further ones says so in one transaction that locks
the positions: rows that hold the event are parked, to be folded again from the beginning of the log
by the ordinary retry. So a read model is the fold of the log and of the decisions, whichever came
first. Everybody who writes rows checks in the same transaction that what was heeded is still what
they know of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tidelog.engine.folding import Decision, Decisions, Folder
from tidelog.engine.heeded import Heeded, covers, merged, reach_of
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Fact, Partition
from tidelog.engine.retrying import Forks, Log
from tidelog.errors import LogHole, Unavailable
from tidelog.projection import Projection

ROUNDS_MAX = 20
"""How often heeding begins again where the generation moves on meanwhile."""

PROBES_MAX = 200
"""How many places of the log are looked at to find one event by its sequence."""

PROBE_RECORDS_BEFORE = 100
"""How many records before the likely place of an event one begins to look."""


class Made(NamedTuple):
    """A decision and the event that it is about."""

    partition: Partition
    sequence: int
    decision: Decision


Place = tuple[Partition, int]
"""An event, by its partition and sequence."""


class Standing(NamedTuple):
    """Where a generation stands in one partition, and what its rows have heeded there."""

    progress: Progress
    heeded: Heeded


class Stand(NamedTuple):
    """A generation at one moment."""

    at: Mapping[Partition, Standing]
    forks: Forks


class Refold(NamedTuple):
    """A row that may hold an event that was decided on, and from where it is folded again."""

    key: str
    fact: Fact
    after: Mapping[Partition, Progress]


class Heeding(NamedTuple):
    """What one transaction does: the rows to fold again, and what is heeded then."""

    refolds: Sequence[Refold]
    # The events that were decided on: a row that waits at one of these is tried at once.
    decided: Sequence[Place]
    # Those of them that are not folded yet, in any row.
    ahead: Sequence[Place]
    heeded: Mapping[Partition, Heeded]


class HeedStore(Protocol):
    """What one generation has heeded."""

    def stand(self) -> Stand:
        """Where it stands."""
        ...

    def heed(self, seen: Mapping[Partition, Standing], heeding: Heeding) -> list[str] | None:
        """In one transaction: lock the positions, park the rows that hold the events, note it.

        The keys that are to be folded again. None, and nothing done, where something else was
        heeded than `seen`, or where an event that is `ahead` has been folded since.
        """
        ...


def further(made: Sequence[Made], stand: Stand) -> list[Made]:
    """The decisions that the generation has not heeded yet."""
    return [
        each
        for each in made
        if each.partition in stand.at
        and not covers(stand.at[each.partition].heeded, reach_of([each.decision]))
    ]


def heed(
    projection: Projection[Any, Any], store: HeedStore, log: Log, made: Sequence[Made]
) -> list[str]:
    """Have the generation heed all decisions made so far; the keys that are folded again.

    `made` are all of this projection and version in the order of their log, those that another one
    has taken the place of among them. Raises Unavailable and LogHole; nothing is done then.
    """
    reach = reach_of([each.decision for each in made])
    facts: dict[Place, Fact] = {}
    for _ in range(ROUNDS_MAX):
        stand = store.stand()
        if all(covers(each.heeded, reach) for each in stand.at.values()):
            return []
        new = further(made, stand)
        places = sorted({(each.partition, each.sequence) for each in new})
        folded = [place for place in places if place[1] <= stand.at[place[0]].progress.sequence]
        for at, sequence in folded:
            if (at, sequence) not in facts:
                facts[at, sequence] = find(log, at, sequence, stand)
        refolds = [
            refold for place in folded for refold in _refolds(projection, facts[place], made, stand)
        ]
        ahead = [place for place in places if place not in folded]
        heeded = {at: merged(standing.heeded, reach) for at, standing in stand.at.items()}
        done = store.heed(stand.at, Heeding(refolds, places, ahead, heeded))
        if done is not None:
            return done
    raise Unavailable(f"{projection.name} moves on faster than decisions can be heeded")


def _refolds(
    projection: Projection[Any, Any], fact: Fact, made: Sequence[Made], stand: Stand
) -> list[Refold]:
    """Every row that the event touches, as it stands in the log or as anybody ever had it."""
    place = (fact.partition, fact.sequence)
    views: list[Decisions] = [{}]
    views += [{place: m.decision} for m in made if (m.partition, m.sequence) == place]
    keys: set[str] = set()
    shared = True
    for view in views:
        folder = Folder(projection, view)
        # Where its rows cannot be told it was not folded like that either.
        touches, _ = folder.touches([fact])
        keys.update(touch.key for touch in touches)
        shared = folder.shared
    feeds = stand.at if shared else [fact.partition]
    start = {at: Progress() for at in feeds}
    return [Refold(key, fact, start) for key in sorted(keys)]


def find(log: Log, at: Partition, sequence: int, stand: Stand) -> Fact:
    """The event of this sequence, which is folded already. LogHole where the log has it no more.

    Offsets grow with the sequences, and mostly as fast, so few places need to be looked at.
    """
    low, high = Progress(), stand.at[at].progress
    for probe in range(PROBES_MAX):
        if high.offset <= low.offset:
            break
        start = _guess(low, high, sequence) if probe % 2 == 0 else (low.offset + high.offset) // 2
        facts = _chunk(log, at, Progress(0, start), high, stand.forks)
        if not facts:
            high = Progress(high.sequence, start)
        elif facts[0].sequence > sequence:
            high = Progress(facts[0].sequence - 1, facts[0].offset - 1)
        elif facts[-1].sequence < sequence:
            low = Progress(facts[-1].sequence, facts[-1].offset)
        else:
            return next(fact for fact in facts if fact.sequence == sequence)
    raise LogHole(f"{at}: sequence {sequence} was folded and is not in the log. Restore the topic.")


def _guess(low: Progress, high: Progress, sequence: int) -> int:
    """An offset that is likely to lie a little before the event."""
    offsets, events = high.offset - low.offset, max(high.sequence - low.sequence, 1)
    likely = low.offset + (sequence - low.sequence) * offsets // events - PROBE_RECORDS_BEFORE
    return min(max(likely, low.offset), high.offset - 1)


def _chunk(
    log: Log, at: Partition, after: Progress, until: Progress, forks: Forks
) -> Sequence[Fact]:
    """The first events after a place, as many as come at once."""
    for facts in log.facts(at, after, until, None):
        known = [fact for fact in facts if (at, fact.offset) not in forks]
        if known:
            return known
    return []
