"""What a writer asks its driver to do, and where it is in its life."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from tidelog.engine.ports import OutgoingRecord


class Slot(Enum):
    """The two transactional ids of a partition."""

    A = "a"
    B = "b"

    @property
    def other(self) -> Slot:
        """The one that is used next."""
        return Slot.B if self is Slot.A else Slot.A


class Fence(NamedTuple):
    """Initialise the transactional id of the slot; this fences whoever used it before."""

    slot: Slot


class FindEnd(NamedTuple):
    """Look up the high watermark, uncommitted records included."""


class Read(NamedTuple):
    """Read committed records from the offset on."""

    offset: int


class Append(NamedTuple):
    """Hand records to the slot's transaction, beginning it where `begin` says so."""

    slot: Slot
    begin: bool
    records: Sequence[OutgoingRecord]


class Commit(NamedTuple):
    """Commit the slot's transaction."""

    slot: Slot
    records: int


class Reset(NamedTuple):
    """Destroy both handles; then wait for a newer proof of ownership and for the backoff."""

    attempt: int


Action = Fence | FindEnd | Read | Append | Commit | Reset


class Phase(Enum):
    """Where the writer is in its life."""

    FENCE_A = "fence-a"
    FENCE_B = "fence-b"
    FIND_END = "find-end"
    REPLAY = "replay"
    SERVING = "serving"
    RESET = "reset"
    BROKEN = "broken"
    STOPPED = "stopped"
