"""Parked keys in memory, with the promises of those in PostgreSQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from tidelog.engine.folding import Decisions, KeyParked
from tidelog.engine.heeded import check_known
from tidelog.engine.heeding import Heeding, Refold, Stand, Standing
from tidelog.engine.reading import Partition
from tidelog.engine.retrying import (
    Applied,
    Close,
    Forks,
    Halt,
    Loaded,
    ParkedKey,
    Settled,
    attempts_after,
)
from tidelog.memory.projection_store import MemoryTables


class MemoryParkedStore:
    """The parked keys of the generation that the tables hold."""

    def __init__(self, tables: MemoryTables, decisions: Decisions | None = None) -> None:
        self._tables = tables
        self._decisions: Decisions = {} if decisions is None else decisions
        self._attempts: dict[str, int] = defaultdict(lambda: 1)

    def load(self, key: str) -> Loaded | None:
        """The parked key, its row and the positions, of one moment; None where none is parked."""
        tables = self._tables
        with tables.lock:
            parked = tables.parked_keys.get(key)
            if parked is None:
                return None
            check_known(self._decisions, [tables.heeded], "The row")
            fact = parked.fact
            found = ParkedKey(
                key,
                fact.partition,
                fact.sequence,
                fact.offset,
                dict(parked.after),
                tables.waiting.get(key, 0),
                self._attempts[key],
                dict.fromkeys(parked.after, tables.heeded),
                key in tables.stale,
            )
            progress = {at: tables.progress[at] for at in parked.after}
            row = None if found.stale else tables.rows.get(key)
            return Loaded(found, row, progress, forks_of(tables))

    def settle(self, parked: ParkedKey, close: Close) -> Applied:
        """Ask `close` what to write, and write it, while nobody else may."""
        tables = self._tables
        with tables.lock:
            known = tables.parked_keys.get(parked.key)
            if known is None or dict(known.after) != dict(parked.after):
                return Applied.OVERTAKEN
            if any(tables.heeded != each for each in parked.heeded.values()):
                return Applied.DECIDED
            settled = close({at: tables.progress[at] for at in parked.after}, forks_of(tables))
            if settled is None:
                return Applied.TOO_FAR
            if settled.changed and settled.row is not None:
                tables.rows[parked.key] = settled.row
            elif settled.changed:
                tables.rows.pop(parked.key, None)
            tables.stale.discard(parked.key)
            if settled.halt is None:
                del tables.parked_keys[parked.key]
                tables.waiting.pop(parked.key, None)
                self._attempts.pop(parked.key, None)
            else:
                self._park_again(parked, known, settled, settled.halt)
            return Applied.DONE

    def _park_again(
        self, parked: ParkedKey, known: KeyParked, settled: Settled, halt: Halt
    ) -> None:
        fact, error = halt
        waiting = settled.waiting
        if waiting is None:
            waiting = max(self._tables.waiting.get(parked.key, 0) - settled.folded, 0)
        again = KeyParked(parked.key, fact, error or known.error, settled.after)
        self._tables.parked_keys[parked.key] = again
        self._tables.waiting[parked.key] = waiting
        self._attempts[parked.key] = attempts_after(parked, halt)


class MemoryHeedStore:
    """What the generation that the tables hold has heeded."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def stand(self) -> Stand:
        """Where it stands."""
        tables = self._tables
        with tables.lock:
            at = {at: Standing(each, tables.heeded) for at, each in tables.progress.items()}
            return Stand(at, forks_of(tables))

    def heed(self, seen: Mapping[Partition, Standing], heeding: Heeding) -> list[str] | None:
        """Park what is to be folded again and note what is heeded, while nobody else may write."""
        tables = self._tables
        with tables.lock:
            if any(tables.heeded != each.heeded for each in seen.values()):
                return None
            if any(sequence <= tables.progress[at].sequence for at, sequence in heeding.ahead):
                return None
            keys = {each.key for each in heeding.refolds if self._park(each)}
            (tables.heeded,) = set(heeding.heeded.values())
            return sorted(keys)

    def _park(self, refold: Refold) -> bool:
        tables, fact = self._tables, refold.fact
        known = tables.parked_keys.get(refold.key)
        if known is not None and known.after[fact.partition].sequence < fact.sequence:
            return False
        error = DecidedLate(f"decided on when {fact.position} was in the row")
        tables.parked_keys[refold.key] = KeyParked(refold.key, fact, error, refold.after)
        tables.stale.add(refold.key)
        return True


class DecidedLate(Exception):
    """Stands as the error of a row that is folded again because of a decision."""


def forks_of(tables: MemoryTables) -> Forks:
    """The places of records that took the sequence of an earlier one."""
    places: dict[tuple[Partition, int], bool] = {
        place: record.fork for place, record in tables.parked.items()
    }
    return frozenset(place for place, fork in places.items() if fork)
