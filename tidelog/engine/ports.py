"""What the command engine asks of the world: a place for checkpoints, a codec, ids and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from tidelog.message import Message, State


class Anchor(NamedTuple):
    """The last event that a partition's state has taken in. Sequence 0 means none yet."""

    sequence: int = 0
    offset: int = -1
    message_id: str = ""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One aggregate as the owner holds it: event count, its last sequence, and its state."""

    version: int
    sequence: int
    state: State


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A command whose events are in the log, and so the answer that it has for ever."""

    command_hash: str
    key: str
    version: int
    events: tuple[tuple[str, int], ...]
    recorded_at: str


class Checkpoint(NamedTuple):
    """What one atomic write saves: changed aggregates, seen commands, and how far they reach.

    Seen commands recorded before `expire_before` may be forgotten; empty: none now.
    """

    entries: Mapping[str, Entry]
    seen: Mapping[str, Seen]
    anchor: Anchor
    expire_before: str


class StateStore(Protocol):
    """A partition's checkpoint. It may be lost or thrown away at any time: the log rebuilds it."""

    def anchor(self) -> Anchor:
        """How far the checkpoint reaches."""
        ...

    def entry(self, key: str) -> Entry | None:
        """The aggregate's entry, if it has any events."""
        ...

    def seen(self, command_id: str) -> Seen | None:
        """The command's answer, if its events are in the log and within the window."""
        ...

    def write(self, checkpoint: Checkpoint) -> None:
        """Save everything in the checkpoint, or nothing."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class OutgoingRecord(NamedTuple):
    """A record to append."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class StoredRecord(NamedTuple):
    """A record as it was read."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class MessageCodec(Protocol):
    """Messages to bytes and back."""

    def encode(self, message: Message) -> bytes:
        """The stored form; CodecError if the message does not fit its type."""
        ...

    def decode(self, value: bytes) -> Message:
        """The message; CodecError if the bytes are not one of ours."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds within which a writer works."""

    queue_commands_max: int = 4_096
    batch_commands_max: int = 512
    batch_bytes_max: int = 4 * 1024 * 1024
    record_bytes_max: int = 1_000_000
    attempts_max: int = 3
    cached_entries_max: int = 50_000
    cached_seen_max: int = 50_000
    idempotency_window_hours: int = 168
    replay_checkpoint_events: int = 5_000
    unsaved_max: int = 100_000


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the pure engine is given from outside: encoding, fresh ids and the time."""

    codec: MessageCodec
    new_id: Callable[[], str]
    now: Callable[[], str]
