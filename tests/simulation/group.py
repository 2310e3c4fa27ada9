"""The consumer group's coordinator: it says who should try, and never two at once by its clock."""

from __future__ import annotations

from typing import NamedTuple

from .faults import SESSION_MS, Faults
from .scheduler import Scheduler


class Membership(NamedTuple):
    """The answer to a heartbeat: whether the partition is the member's, and in which generation."""

    owner: bool
    generation: int


class Group:
    """Assigns the partition to one member; takes it back when it rebalances or hears nothing.

    The partition goes to the next member only after the former has said that it stopped, or a
    session timeout after the last proof of ownership that it was given.
    """

    def __init__(self, scheduler: Scheduler, faults: Faults) -> None:
        self._scheduler = scheduler
        self._faults = faults
        self._heard_ms: dict[int, float] = {}
        self.owner: int | None = None
        self.generation = 0
        self._former: int | None = None
        self._proved_ms = 0.0
        self._revoking = False

    def heartbeat(self, member: int) -> Membership:
        """A heartbeat arrives."""
        now_ms = self._scheduler.now_ms
        self._heard_ms[member] = now_ms
        if self.owner is None:
            self._assign()
        owner = member == self.owner and not self._revoking
        if self._faults.lease_lies:
            owner = owner or self._scheduler.chance(0.7)
        if owner:
            self._proved_ms = now_ms
        return Membership(owner, self.generation)

    def gave_up(self, member: int, generation: int) -> None:
        """A member says that it has stopped working on the partition."""
        if member == self.owner and generation == self.generation:
            self.owner = None
            self._assign()

    def rebalance(self) -> None:
        """Take the partition from its owner, as soon as it has stopped."""
        if self._faults.lease_lies:
            self._assign()
        else:
            self._revoking = self.owner is not None

    def tick(self) -> None:
        """Evict an owner whose proof is older than the session timeout."""
        expired = self._scheduler.now_ms - self._proved_ms > SESSION_MS
        if self.owner is not None and expired:
            self.owner = None
            self._assign()

    def _assign(self) -> None:
        now_ms = self._scheduler.now_ms
        alive = [
            member for member, heard_ms in self._heard_ms.items() if now_ms - heard_ms <= SESSION_MS
        ]
        if not alive:
            return
        others = [member for member in alive if member != self._former]
        self.owner = self._former = self._scheduler.random.choice(others or alive)
        self.generation += 1
        self._revoking = False
        self._proved_ms = now_ms
        if self._scheduler.tracing:
            self._scheduler.note(
                "group",
                f"generation {self.generation}: the partition goes to p{self.owner}",
            )
