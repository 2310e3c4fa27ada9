"""The log as a retry reads it: the events of a stretch, of one aggregate where that is enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from tidelog.engine.judge import Progress
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.errors import Unavailable
from tidelog.kafka.spans import SpanReader
from tidelog.logging import get_logger

TOLD_EVERY_S = 5.0

log = get_logger(__name__)


class SpanFacts:
    """Events of stretches. A retry under way ends with Unavailable once `stopping` is set."""

    def __init__(self, reader: SpanReader, events: EventReader, stopping: threading.Event) -> None:
        self._reader = reader
        self._events = events
        self._stopping = stopping

    def facts(
        self, at: Partition, after: Progress, until: Progress, key: str | None
    ) -> Iterator[Sequence[Fact]]:
        """The events after one place up to another, a chunk at a time; of one aggregate if given.

        Records of other aggregates are not decoded. Records that are not ours are left out.
        """
        wanted = None if key is None else key.encode()
        told = time.monotonic()
        for records in self._reader.read(at, after.offset + 1, until.offset):
            if self._stopping.is_set():
                raise Unavailable("The process stops; the retry goes on after the next start.")
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                offset = records[-1].offset
                log.info("projection.retry_reads", at=str(at), offset=offset, until=until.offset)
            judged = (
                self._events.event(at, record)
                for record in records
                if wanted is None or record.key == wanted
            )
            facts = [fact for fact in judged if isinstance(fact, Fact)]
            if facts:
                yield facts
