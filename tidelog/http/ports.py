"""What the HTTP edge needs from outside, beside the CommandDoor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tidelog.message import Command, Context

Headers = Mapping[bytes, bytes]
"""A request's headers: names in lower case."""

CallerOf = Callable[[Headers, Context, type[Command]], str]
"""Names the caller of a command, or raises Unauthorized or Forbidden."""


def local_caller(_headers: Headers, _context: Context, _command: type[Command]) -> str:
    """The caller while authentication is off: everyone is `local` and may do everything."""
    return "local"


class OperationStore(Protocol):
    """Where the outcome of a `Prefer: respond-async` command is found, for 24 hours.

    Whoever decides the command records its outcome under the same id (the command id).
    """

    async def start(self, id: str, context: str, command_hash: str) -> None:
        """Remember the operation as running. An outcome that is there already is kept.

        Raises IdempotencyKeyReused where it runs, or is done, for a command of another hash. One
        that was refused left nothing behind: another command may take its place.
        """
        ...

    async def get(self, id: str) -> dict[str, Any] | None:
        """`{"id", "status": "running|done|refused", "result"|"problem"}`, or None."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadinessCheck:
    """One reason to be ready or not: `check` returns None, or what is missing."""

    name: str
    check: Callable[[], Awaitable[str | None]]
