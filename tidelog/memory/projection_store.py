"""Rows and progress of a projection in memory, with the promises of the one in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tidelog.engine.folding import Parked, Partition, StoredRow
from tidelog.engine.judge import Progress
from tidelog.engine.projecting import (
    Applied,
    Failed,
    Overtaken,
    Step,
    TopicInfo,
    Written,
)
from tidelog.errors import TopicRecreated
from tidelog.projection import Projection


class MemoryTables:
    """What is stored; several stores may share it, as processes share a database."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.rows: dict[str, StoredRow] = {}
        self.progress: dict[Partition, Progress] = {}
        self.topic_ids: dict[str, str] = {}
        self.parked: dict[tuple[Partition, int], Parked] = {}


class MemoryProjectionStore:
    """One process's access to the tables of a projection."""

    def __init__(
        self, projection: Projection[Any, Any], tables: MemoryTables | None = None
    ) -> None:
        self._name = projection.name
        self._tables = tables or MemoryTables()
        self._topics: dict[str, TopicInfo] = {}

    def open(self, topics: Mapping[str, TopicInfo]) -> None:
        """Make the positions that are missing; check the topics' ids."""
        self._topics = dict(topics)
        with self._tables.lock:
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
            return dict(self._tables.progress)

    def apply(self, step: Step) -> Applied:
        """All of the step, or nothing."""
        tables = self._tables
        with tables.lock:
            if any(tables.progress.get(at) != was for at, was in step.before.items()):
                return Overtaken()
            found = {key: tables.rows[key] for key in step.keys if key in tables.rows}
            changes = step.fold(found)
            if changes.failures:
                return Failed(changes.failures)
            tables.rows.update(changes.upserts)
            for key in changes.deletes:
                tables.rows.pop(key, None)
            for parked in step.parked:
                place = (parked.partition, parked.record.offset)
                tables.parked.setdefault(place, parked)
            tables.progress.update(step.after)
            return Written(len(changes.upserts), len(changes.deletes))

    def rows(self) -> dict[str, StoredRow]:
        """Every row, by key."""
        with self._tables.lock:
            return dict(self._tables.rows)

    def close(self) -> None:
        """Nothing to release."""
