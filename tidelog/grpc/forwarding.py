"""Any instance takes any command: a door that passes on what another instance owns.

A command of a partition that is owned here goes the short way. Any other is sent to the owner, one
hop at most: the owner submits it to itself and never passes it on. While a partition moves nobody
owns it, so a refusal that says "not I" is tried again, by the same command id, as long as the
command's time lasts; the caller of a rolling restart sees a slow answer, not a 503.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from tidelog.engine.command import Envelope, Outcome, Refused
from tidelog.errors import NotOwner, Overloaded
from tidelog.kafka.membership import Place
from tidelog.kafka.owners import OwnerDirectory

RETRY_MIN_S: Final = 0.02
RETRY_MAX_S: Final = 0.2
MARGIN_S: Final = 0.25
"""The door answers this long before the command's time is over, so that it can say why."""

WAITING_MAX: Final = 8_192
"""Commands that wait for an owner at once."""

NOBODY: Final = "No instance owns this key at the moment. Send it again, same key."


class LocalDoor(Protocol):
    """The partitions of this instance."""

    def owns(self, context: str, key: str) -> bool:
        """Whether the key's partition is owned here."""
        ...

    def place_of(self, context: str, key: str) -> Place:
        """The topic and partition by which the group assigns the key; Unknown if none."""
        ...

    def submit(self, context: str, envelope: Envelope) -> Awaitable[Outcome]:
        """Hand a command in; raises NotOwner or Overloaded, or answers it."""
        ...

    def partition_of(self, context: str, key: str) -> int:
        """The partition of the key."""
        ...

    def enqueue(self, context: str, envelope: Envelope) -> Awaitable[None]:
        """Append the command to its topic."""
        ...


class RemoteDoor(Protocol):
    """The partitions of the others."""

    async def submit(
        self, address: str, context: str, envelope: Envelope, remaining_s: float
    ) -> Outcome:
        """One attempt at the instance at `address`; raises NotOwner where it does not answer."""
        ...


class ForwardingDoor:
    """The CommandDoor of one instance among several."""

    def __init__(
        self,
        local: LocalDoor,
        remote: RemoteDoor,
        directory: OwnerDirectory,
        *,
        command_timeout_ms: int,
        own_address: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._remote = remote
        self._directory = directory
        self._patience_s = max(command_timeout_ms / 1000 - MARGIN_S, 0.05)
        self._own_address = own_address
        self._clock = clock
        self._waiting = 0

    def partition_of(self, context: str, key: str) -> int:
        """The partition of the key; Unknown if there is no such context."""
        return self._local.partition_of(context, key)

    def enqueue(self, context: str, envelope: Envelope) -> Awaitable[None]:
        """Append the command to `<context>.commands`, whoever owns its partition."""
        return self._local.enqueue(context, envelope)

    async def submit(self, context: str, envelope: Envelope) -> Outcome:
        """What became of the command, here or at its owner. Raises NotOwner once time is over."""
        if self._local.owns(context, envelope.key):
            found = await self._here(context, envelope)
            if not _is_elsewhere(found):
                return found
        if self._waiting >= WAITING_MAX:
            raise Overloaded(f"{WAITING_MAX} commands wait for another instance already.")
        self._waiting += 1
        try:
            return await self._until_owned(context, envelope)
        finally:
            self._waiting -= 1

    async def _until_owned(self, context: str, envelope: Envelope) -> Outcome:
        """Ask whoever should own it until somebody does, within the command's time."""
        deadline = self._clock() + self._patience_s
        pause_s = RETRY_MIN_S
        while True:
            found = await self._once(context, envelope, deadline)
            if not _is_elsewhere(found):
                return found
            left_s = deadline - self._clock()
            if left_s <= pause_s:
                return found
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _once(self, context: str, envelope: Envelope, deadline: float) -> Outcome:
        if self._local.owns(context, envelope.key):
            return await self._here(context, envelope)
        place = self._local.place_of(context, envelope.key)
        address = await self._directory.owner(place)
        if address is None:
            return Refused(NotOwner(NOBODY))
        if address == self._own_address():
            self._directory.wrong(place, address)
            return Refused(NotOwner(NOBODY))  # assigned, and not taken over yet; or lost by now
        remaining_s = deadline - self._clock()
        if remaining_s <= 0:
            return Refused(NotOwner(NOBODY))
        try:
            found = await self._remote.submit(address, context, envelope, remaining_s)
        except NotOwner as error:
            found = Refused(error)
        if _is_elsewhere(found):
            self._directory.wrong(place, address)
        return found

    async def _here(self, context: str, envelope: Envelope) -> Outcome:
        try:
            return await self._local.submit(context, envelope)
        except NotOwner as error:
            return Refused(error)


def _is_elsewhere(outcome: Outcome) -> bool:
    """Whether the answer is only that somebody else must be asked."""
    return isinstance(outcome, Refused) and isinstance(outcome.error, NotOwner)
