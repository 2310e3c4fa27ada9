"""The command door in memory: the writer's answers, without a broker."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.domain import Add, Take, account
from tidelog.engine.command import Envelope, Recorded, Refused
from tidelog.errors import Overloaded, Unavailable
from tidelog.memory import MemoryDoor


def _envelope(name: str, command: Add | Take) -> Envelope:
    return Envelope(
        command_id=name,
        command_hash=repr(command),
        key=command.account_id,
        command=command,
        correlation_id=name,
        traceparent="",
    )


ADD = Add(account_id="anna", amount=3, parts=2)


async def test_commands_are_recorded_refused_and_replayed() -> None:
    door = MemoryDoor([account])
    first, again = await asyncio.gather(
        door.submit("accounts", _envelope("one", ADD)),
        door.submit("accounts", _envelope("one", ADD)),
    )
    assert first == Recorded(version=2, events=(("Added", 1), ("Added", 2)))
    assert again == Recorded(version=2, events=(("Added", 1), ("Added", 2)), replayed=True)
    too_much = Take(account_id="anna", amount=7)
    assert isinstance(await door.submit("accounts", _envelope("two", too_much)), Refused)
    assert len(door.events("accounts", door.partition_of("accounts", "anna"))) == 2


async def test_a_command_through_the_topic_leaves_its_outcome() -> None:
    door = MemoryDoor([account])
    await door.enqueue("accounts", _envelope("one", ADD))
    assert isinstance(door.outcomes["one"], Recorded)


async def test_what_cannot_be_answered_now_is_raised() -> None:
    door = MemoryDoor([account])
    door.unavailable = Overloaded("full")
    with pytest.raises(Overloaded):
        await door.submit("accounts", _envelope("one", ADD))
    door.unavailable = None
    door.stop()
    with pytest.raises(Unavailable):
        await door.submit("accounts", _envelope("one", ADD))
