"""What the other side tells by itself: a numbered list that is read on from where we were.

The place and the commands that follow are written together, so each entry becomes its commands
once, whatever is repeated or killed in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidelog.effects.work_store import Outcome, WorkStore
from tidelog.errors import TidelogError, Unavailable
from tidelog.logging import get_logger
from tidelog.message import Command

log = get_logger(__name__)


class Entry(NamedTuple):
    """One entry of the list, and the command that it leads to, if any."""

    number: int
    command: Command | None
    correlation_id: str


@dataclass(frozen=True, kw_only=True)
class Movements:
    """A list of the other side. `read` gives what comes after a number, in order, some at a time.

    It is read every `pause_s` seconds.
    """

    name: str
    read: Callable[[int], Awaitable[Sequence[Entry]]]
    pause_s: float = 1.0


async def follow(store: WorkStore, movements: Movements) -> None:
    """Read the list on, until cancelled. Of several processes one reads at a time."""
    while True:
        try:
            more = await _read_on(store, movements)
        except TidelogError as error:  # it may pass: retry, and show it
            more = False
            level = log.warning if isinstance(error, Unavailable) else log.error
            level("movements.wait", name=movements.name, reason=str(error))
        if not more:
            await asyncio.sleep(movements.pause_s)


async def _read_on(store: WorkStore, movements: Movements) -> bool:
    async with store.cursor(movements.name) as cursor:
        if cursor is None:
            return False
        entries = await movements.read(cursor.place)
        if not entries:
            return False
        numbers = [each.number for each in entries]
        assert numbers == sorted(set(numbers)), f"{movements.name}: not in order"
        outcomes = [
            Outcome(
                each.command,
                f"effect:{movements.name}",
                str(each.number),
                f"{movements.name}:{each.number}",
                each.correlation_id,
                "",
            )
            for each in entries
            if each.command is not None
        ]
        await cursor.advance(numbers[-1], outcomes)
        return True
