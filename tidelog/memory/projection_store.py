"""Rows and progress of a projection in memory, with the promises of the one in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tidelog.definition import definition_hash
from tidelog.engine.folding import Decisions, KeyParked, StoredRow
from tidelog.engine.heeded import Heeded, check_known
from tidelog.engine.judge import Progress
from tidelog.engine.projection_store import (
    Applied,
    Overtaken,
    Step,
    TopicInfo,
    Written,
)
from tidelog.engine.reading import ParkedRecord, Partition
from tidelog.errors import DefinitionChanged, GenerationGone, TopicRecreated
from tidelog.projection import Projection


class MemoryTables:
    """What is stored; several stores may share it, as processes share a database."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.rows: dict[str, StoredRow] = {}
        self.progress: dict[Partition, Progress] = {}
        self.topic_ids: dict[str, str] = {}
        self.parked: dict[tuple[Partition, int], ParkedRecord] = {}
        self.parked_keys: dict[str, KeyParked] = {}
        self.waiting: dict[str, int] = {}
        self.definition = ""
        self.heeded: Heeded = ""
        # The parked keys whose row holds more than is said: it is to be folded again.
        self.stale: set[str] = set()

    def drop(self) -> None:
        """Drop the generation, whoever uses it."""
        with self.lock:
            self.rows.clear()
            self.progress.clear()


class MemoryProjectionStore:
    """One process's access to the tables of a projection."""

    def __init__(
        self,
        projection: Projection[Any, Any],
        tables: MemoryTables | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self._decisions: Decisions = {} if decisions is None else decisions
        self._name = projection.name
        self._definition = definition_hash(projection)
        self._tables = tables or MemoryTables()
        self._topics: dict[str, TopicInfo] = {}
        self._heeded: Heeded = ""

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the positions that are missing; check the topics' ids."""
        self._topics = dict(topics)
        with self._tables.lock:
            self._check_definition()
            for context, topic in topics.items():
                self._tables.topic_ids.setdefault(context, topic.id)
                for number in range(topic.partitions):
                    self._tables.progress.setdefault(Partition(context, number), Progress())
            self.progress()

    def progress(self) -> dict[Partition, Progress]:
        """How far each partition is folded in. TopicRecreated where the log is another one."""
        with self._tables.lock:
            for context, topic in self._topics.items():
                if self._tables.topic_ids[context] != topic.id:
                    raise TopicRecreated(
                        f"The events topic of {context} is not the one that {self._name} was "
                        "folded from. Restore the topic, or rebuild the projection."
                    )
            if not self._tables.progress:
                raise GenerationGone(f"The rows of {self._name} were dropped.")
            check_known(self._decisions, [self._tables.heeded], f"The table of {self._name}")
            self._heeded = self._tables.heeded
            return dict(self._tables.progress)

    def apply(self, step: Step) -> Applied:
        """All of the step, or nothing."""
        tables = self._tables
        with tables.lock:
            stands = all(tables.progress.get(at) == was for at, was in step.before.items())
            if not stands or (step.after and tables.heeded != self._heeded):
                return Overtaken()
            found = {key: tables.rows[key] for key in step.keys if key in tables.rows}
            waiting = tables.parked_keys.keys() & set(step.touched) if step.reads else set[str]()
            changes = step.fold(found, waiting)
            for parked_key in changes.parked:
                after = {**tables.progress, **step.before, **parked_key.after}
                own = parked_key._replace(after=after) if step.shared else parked_key
                tables.parked_keys[parked_key.key] = own
            for key, count in changes.passed.items():
                tables.waiting[key] = tables.waiting.get(key, 0) + count
            tables.rows.update(changes.upserts)
            for key in changes.deletes:
                tables.rows.pop(key, None)
            for parked in step.parked:
                place = (parked.partition, parked.record.offset)
                tables.parked.setdefault(place, parked)
            tables.progress.update(step.after)
            return Written(len(changes.upserts), len(changes.deletes), tuple(changes.parked))

    def rows(self) -> dict[str, StoredRow]:
        """Every row, by key."""
        with self._tables.lock:
            return dict(self._tables.rows)

    def _check_definition(self) -> None:
        known = self._tables.definition
        if known not in ("", self._definition):
            raise DefinitionChanged(
                f"{self._name} changed without a new version: its rows were folded by other code. "
                "Raise its version and rebuild it; or, where the change makes no difference to "
                f"the rows, prove it with `tidelog projection adopt {self._name}`."
            )
        self._tables.definition = self._definition

    def close(self) -> None:
        """Nothing to release."""
