"""The port to the log of the registry, and the log in memory.

A log has one writer at a time. `take_over` makes the caller the writer and fences the one
before: whatever that one appends later fails with Fenced and leaves nothing. So whoever takes
over, reads to the end, decides, and then appends successfully has decided on the whole truth.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidelog.errors import TidelogError


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRecord:
    """A record of the compacted topic: JSON key and JSON value, None deletes the key."""

    key: bytes
    value: bytes | None


class Fenced(TidelogError):
    """Another writer took over; nothing was appended. Take over again and decide again."""


class SchemaLog(Protocol):
    """What the registry needs of a log. Not thread-safe: the service serialises the calls."""

    def open(self) -> None:
        """Make sure that the log exists and is fit; raises LogError with the cure if not."""

    def take_over(self) -> None:
        """Become the one writer."""

    def append(self, records: Sequence[LogRecord]) -> None:
        """Append all or nothing. Unavailable: the outcome is unknown, so take over afresh."""

    def read(self) -> list[LogRecord]:
        """Every record since the last read, up to the end that the log has now."""

    def close(self) -> None:
        """Let go of connections."""


class MemoryTopic:
    """The records and the writer's epoch; several logs may share it as instances share Kafka."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: list[LogRecord] = []
        self.epoch = 0


class MemoryLog:
    """A log in memory, for tests and simulation; it fences as the Kafka log does."""

    def __init__(self, topic: MemoryTopic | None = None) -> None:
        self._topic = topic or MemoryTopic()
        self._epoch = 0
        self._position = 0

    def open(self) -> None:
        """Nothing to make."""

    def take_over(self) -> None:
        """Become the one writer."""
        with self._topic.lock:
            self._topic.epoch += 1
            self._epoch = self._topic.epoch

    def append(self, records: Sequence[LogRecord]) -> None:
        """Append all or nothing."""
        with self._topic.lock:
            if self._epoch != self._topic.epoch or self._epoch == 0:
                raise Fenced("Another instance writes to the registry's log.")
            self._topic.records.extend(records)

    def read(self) -> list[LogRecord]:
        """Every record since the last read."""
        with self._topic.lock:
            new = self._topic.records[self._position :]
            self._position += len(new)
            return new

    def close(self) -> None:
        """Nothing to let go of."""
