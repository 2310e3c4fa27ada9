"""One partition's aggregates and seen commands, as its owner holds them in memory.

The log is the truth, this is its fold. Memory is bounded: the entries that were not used for
longest leave, and are read again from the store; what is not yet in the store is never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from tidelog.aggregate import Aggregate
from tidelog.engine.judge import Progress, Verdict, judge
from tidelog.engine.ports import (
    Anchor,
    Checkpoint,
    Entry,
    Limits,
    MessageCodec,
    Seen,
    StateStore,
    StoredRecord,
)
from tidelog.engine.reading import EventForm
from tidelog.message import Message
from tidelog.wire import EventMetadata

V = TypeVar("V")

EXPIRE_EVERY_CHECKPOINTS = 64
"""Looking for expired commands costs more than a small checkpoint, so it is done now and then."""


class PartitionState:
    """The fold of one partition up to `anchor`."""

    def __init__(
        self, aggregate: Aggregate[Any, Any, Any], store: StateStore, limits: Limits
    ) -> None:
        self._aggregate = aggregate
        self._store = store
        self._limits = limits
        self._initial = Entry(0, 0, aggregate.initial)
        self._form = EventForm(aggregate.context)
        self._entries: _Cache[Entry] = _Cache(limits.cached_entries_max)
        self._seen: _Cache[Seen] = _Cache(limits.cached_seen_max)
        self.anchor: Anchor = store.anchor()
        self._last_command = ""  # that of the anchor's event; empty: not known
        self._log_time = ""
        self._checkpoints = 0

    def entry(self, key: str) -> Entry:
        """The aggregate's entry; one of version 0 if it has no events."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._store.entry(key) or self._initial
            self._entries.put_clean(key, entry)
        return entry

    def seen(self, command_id: str) -> Seen | None:
        """The answer of a command whose events are in the log."""
        return self._seen.get(command_id) or self._store.seen(command_id)

    def publish(
        self, entries: Mapping[str, Entry], seen: Mapping[str, Seen], anchor: Anchor
    ) -> None:
        """Take in what a committed transaction changed."""
        assert anchor.sequence > self.anchor.sequence, "a commit moves the partition forward"
        self._entries.put_dirty(entries)
        self._seen.put_dirty(seen)
        self.anchor = anchor
        self._last_command = ""
        for answer in seen.values():
            self._log_time = max(self._log_time, answer.recorded_at)

    def replay(self, record: StoredRecord, codec: MessageCodec) -> Verdict:
        """Judge a record of the log and, if it is the next event, fold it in."""
        found = self._form.read(record, codec)
        sequence = None if isinstance(found, str) else found[0].sequence
        progress = Progress(self.anchor.sequence, self.anchor.offset)
        verdict = judge(progress, record.offset, sequence)
        if verdict is Verdict.NEXT and not isinstance(found, str):
            self._fold(record.offset, *found)
        return verdict

    def checkpoint(self) -> None:
        """Save what has changed since the last checkpoint, in one atomic write."""
        self._store.write(
            Checkpoint(
                self._entries.dirty,
                self._seen.dirty,
                self.anchor,
                self._expire_before(),
            )
        )
        self._entries.clean()
        self._seen.clean()

    def unsaved(self) -> int:
        """How many entries and seen commands the next checkpoint will write."""
        return len(self._entries.dirty) + len(self._seen.dirty)

    def reset(self) -> None:
        """Throw the checkpoint and the memory away; the log will be read from its beginning."""
        self._store.clear()
        self._entries = _Cache(self._limits.cached_entries_max)
        self._seen = _Cache(self._limits.cached_seen_max)
        self.anchor = Anchor()
        self._last_command = ""
        self._log_time = ""

    def _fold(self, offset: int, metadata: EventMetadata, event: Message) -> None:
        key, sequence, command_id = metadata.subject, metadata.sequence, metadata.causation_id
        state = self._aggregate.evolve(self.entry(key).state, event)
        self._entries.dirty[key] = Entry(metadata.version, sequence, state)
        earlier = self._events_before(command_id, sequence)
        self._seen.dirty[command_id] = Seen(
            metadata.command_hash,
            key,
            metadata.version,
            (*earlier, (type(event).__name__, sequence)),
            metadata.recorded_at,
        )
        self.anchor = Anchor(sequence, offset, metadata.message_id)
        self._last_command = command_id
        self._log_time = max(self._log_time, metadata.recorded_at)

    def _events_before(self, command_id: str, sequence: int) -> tuple[tuple[str, int], ...]:
        """What the command of the event at this sequence had caused before it.

        A command's events are contiguous. So there are none where the event before is of another
        command, and an id that is seen but not contiguous came back after its window.
        """
        if self._last_command and self._last_command != command_id:
            return ()
        seen = self.seen(command_id)
        return seen.events if seen and seen.events[-1][1] + 1 == sequence else ()

    def _expire_before(self) -> str:
        """The log time before which seen commands may be forgotten (RFC 3339 sorts as text)."""
        self._checkpoints += 1
        if not self._log_time or self._checkpoints % EXPIRE_EVERY_CHECKPOINTS:
            return ""
        horizon = datetime.fromisoformat(self._log_time) - timedelta(
            hours=self._limits.idempotency_window_hours
        )
        return horizon.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Cache(Generic[V]):
    """Values by key: dirty ones are kept until saved, clean ones are bounded.

    Clean values live in two generations of half the bound each: what is used moves to the young
    one, and when that is full the old one is dropped whole. This is LRU up to a half, at the cost
    of a look-up; an exact LRU in one dict would walk over the holes that evictions leave in it.
    """

    def __init__(self, clean_max: int) -> None:
        self._young_max = max(clean_max // 2, 1)
        self._young: dict[str, V] = {}
        self._old: dict[str, V] = {}
        self.dirty: dict[str, V] = {}

    def get(self, key: str) -> V | None:
        value = self.dirty.get(key)
        if value is None:
            value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put_clean(key, value)
        return value

    def put_clean(self, key: str, value: V) -> None:
        if len(self._young) >= self._young_max:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def put_dirty(self, values: Mapping[str, V]) -> None:
        self.dirty.update(values)

    def clean(self) -> None:
        """All that was dirty has been saved. An old clean value of a key is found after the new."""
        for key, value in self.dirty.items():
            self.put_clean(key, value)
        self.dirty = {}
