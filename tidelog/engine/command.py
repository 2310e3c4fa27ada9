"""A command on its way to the aggregate, and what may become of it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from tidelog.errors import TidelogError
from tidelog.message import Command

MUST_EXIST = -1
"""The `expected_version` that any existing aggregate meets (`If-Match: *`)."""


class Envelope(msgspec.Struct, kw_only=True, gc=False, eq=False):
    """A checked command with all that travels beside it.

    `command_id` is UUIDv5(caller, context, aggregate id, idempotency key) for commands that people
    send, and the record's `ce_id` for commands that come through the topic.
    `expected_version` None asks nothing, 0 asks that the aggregate does not exist yet.
    """

    command_id: str
    command_hash: str
    key: str
    command: Command
    correlation_id: str
    traceparent: str
    expected_version: int | None = None


class Recorded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command's events are in the log. HTTP 201.

    `events` are (short type, sequence) in order; `version` is the aggregate's after the last.
    """

    version: int
    events: tuple[tuple[str, int], ...]
    replayed: bool = False


class Unchanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command changed nothing. HTTP 200. `sequence`: the aggregate's last, 0 if it has none."""

    version: int
    sequence: int


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The command was refused; it left nothing in the log."""

    error: TidelogError


Outcome = Recorded | Unchanged | Refused


class CommandDoor(Protocol):
    """The one way into the command side; HTTP, gRPC and the command topics all use it."""

    def submit(self, context: str, envelope: Envelope) -> Awaitable[Outcome]:
        """Hand a command in. Raises NotOwner, Overloaded or Unavailable, now or when awaited."""
        ...

    def partition_of(self, context: str, key: str) -> int:
        """The partition of the key."""
        ...

    def enqueue(self, context: str, envelope: Envelope) -> Awaitable[None]:
        """Append the command to `<context>.commands`; returns once it is durable there."""
        ...
