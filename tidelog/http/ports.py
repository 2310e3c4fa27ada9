"""What the HTTP edge needs from outside, beside the CommandDoor."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tidelog.errors import Malformed
from tidelog.message import Command, Context

Headers = Mapping[bytes, bytes]
"""A request's headers: names in lower case."""

CallerOf = Callable[[Headers, Context, type[Command]], str]
"""Names the caller of a command, or raises Unauthorized or Forbidden."""


CALLER_HEADER: Final = b"x-tidelog-caller"
"""Where the gateway says who it let in. It takes the header from nobody outside."""

ONLY_OF_HEADER: Final = b"x-tidelog-only-of"
"""Where the gateway names the caller whose own alone may be answered; it takes it from nobody."""

_CALLER = re.compile(rb"[\x21-\x7e]{1,160}")


def named_caller(headers: Headers, _context: Context, _command: type[Command]) -> str:
    """Who the gateway says sends the command; `local` while authentication is off.

    Whoever reaches a service past the gateway can name anyone: services listen inside only.
    """
    given = headers.get(CALLER_HEADER)
    if given is None:
        return "local"
    if not _CALLER.fullmatch(given):
        raise Malformed("X-Tidelog-Caller takes 1 to 160 printable ASCII characters.")
    return given.decode("ascii")


class OperationStore(Protocol):
    """Where the outcome of a `Prefer: respond-async` command is found, for 24 hours.

    Whoever decides the command records its outcome under the same id (the command id).
    """

    async def start(self, id: str, context: str, command_hash: str, caller: str) -> None:
        """Remember the caller's operation as running. An outcome that is there already is kept.

        Raises IdempotencyKeyReused where it runs, or is done, for a command of another hash. One
        that was refused left nothing behind: another command may take its place.
        """
        ...

    async def get(self, id: str, only_of: str | None = None) -> dict[str, Any] | None:
        """`{"id", "status": "running|done|refused", "result"|"problem"}`, or None.

        Where `only_of` names a caller, another's operation is as if it were not there.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ReadinessCheck:
    """One reason to be ready or not: `check` returns None, or what is missing."""

    name: str
    check: Callable[[], Awaitable[str | None]]
    vital: bool = True
    """Whether the process is not ready without it; else it is only shown."""

    @classmethod
    def of(cls, name: str, problems: Callable[[], Sequence[str]]) -> ReadinessCheck:
        """Ready while `problems` finds none; it answers at once."""

        async def check() -> str | None:
            return "; ".join(problems()) or None

        return cls(name=name, check=check)
