"""Every error that Tidelog raises on purpose.

TidelogError                      status  retry   when
├── Rejected                         409     no   a rule of the domain says no (subclass per rule)
├── Malformed                        400     no   the request cannot be read at all
├── Unknown                          404     no   no such route, context, command or id
├── Invalid                          422     no   readable, but a value breaks its type or bounds
│   └── IdempotencyKeyReused         422     no   same key, other content
├── StaleVersion                     412     no   If-Match names a version that is not current
├── Unavailable                      503    yes   cannot answer now; send the same request again
│   ├── NotOwner                     503    yes   this process does not own the partition
│   ├── Overloaded                   503    yes   a bounded queue is full
│   └── NotYetVisible                503    yes   the read model has not reached the token
├── Blocked                          409     no   the key waits behind a parked event
├── CommandFault                     500     no   a command could not be decided: a fault of ours
├── ProjectionFault                  500     no   an event could not be written to a read model
├── CodecError                       500     no   bytes or a value that do not fit their schema
├── LogError                         500     no   the log is not what it must be
│   ├── LogHole                      500     no   events are missing from a partition
│   ├── LogFork                      500     no   two writers wrote the same sequence
│   └── TopicRecreated               500     no   the topic is not the one that was read before
├── DefinitionError                  500     no   an aggregate, projection or message is ill defined
│   └── DefinitionChanged            500     no   a projection is not the one that folded the rows
├── GenerationGone                   500     no   a generation of a read model was dropped
└── ConfigurationError               500     no   a setting is unknown, malformed or impossible
"""

from __future__ import annotations

import re
from typing import ClassVar


class TidelogError(Exception):
    """The root. `status` is the HTTP status; `retry` says whether the same request may succeed."""

    status: ClassVar[int] = 500
    retry: ClassVar[bool] = False
    title: ClassVar[str] = "Internal error"

    @classmethod
    def slug(cls) -> str:
        """The last part of the problem's type URI: OrderNeverPlaced → order-never-placed."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    @property
    def detail(self) -> str:
        """One sentence for the caller; it never repeats untrusted input."""
        return str(self)


class Rejected(TidelogError):
    """A rule of the domain says no. Subclass it once per rule; the docstring explains the rule."""

    status = 409

    @property
    def detail(self) -> str:
        """The rule, as its docstring states it."""
        return " ".join((type(self).__doc__ or type(self).__name__).split())


class Malformed(TidelogError):
    """The request cannot be read at all."""

    status = 400
    title = "The request is malformed"


class Unknown(TidelogError):
    """There is no such route, context, command or id."""

    status = 404
    title = "Not found"


class Invalid(TidelogError):
    """Readable, but a value breaks its type or bounds; `pointer` (RFC 6901) says which."""

    status = 422
    title = "The request breaks a rule of its form"

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.pointer = pointer


class IdempotencyKeyReused(Invalid):
    """The key was used before with other content."""

    title = "The idempotency key was used with other content"

    def __init__(self) -> None:
        super().__init__("The idempotency key was already used for another command. Use a new key.")


class StaleVersion(TidelogError):
    """If-Match names a version that is not the current one."""

    status = 412
    title = "The aggregate has another version"

    def __init__(self, actual_version: int) -> None:
        super().__init__(f"The current version is {actual_version}. Read it, decide, send again.")
        self.actual_version = actual_version


class Unavailable(TidelogError):
    """It cannot be answered now; the same request with the same key may be sent again."""

    status = 503
    retry = True
    title = "Try again later"
    retry_after_s: ClassVar[int] = 1


class NotOwner(Unavailable):
    """This process does not own the partition of the key."""


class Overloaded(Unavailable):
    """A bounded queue is full."""


class NotYetVisible(Unavailable):
    """The read model has not reached the given position in time."""

    def __init__(self, detail: str, current_position: str) -> None:
        super().__init__(detail)
        self.current_position = current_position


class Blocked(TidelogError):
    """The key waits behind a parked event."""

    status = 409
    title = "The key waits behind a parked event"


class CommandFault(TidelogError):
    """A command could not be decided: a fault of ours, not of the caller."""


class ProjectionFault(TidelogError):
    """An event could not be written to a read model: a fault of ours."""


class CodecError(TidelogError):
    """Bytes or a value that do not fit their schema."""


class LogError(TidelogError):
    """The log is not what it must be."""


class LogHole(LogError):
    """Events are missing from a partition."""


class LogFork(LogError):
    """Two writers wrote the same sequence."""


class TopicRecreated(LogError):
    """The topic is not the one that was read before."""


class DefinitionError(TidelogError):
    """An aggregate, projection or message is ill defined."""


class DefinitionChanged(DefinitionError):
    """A projection changed under the same version: its rows may not be what it makes of the log."""


class GenerationGone(TidelogError):
    """The generation of a read model was dropped while it was in use."""


class ConfigurationError(TidelogError):
    """A setting is unknown, malformed or impossible."""
