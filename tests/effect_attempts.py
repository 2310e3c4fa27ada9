"""The first attempt of an effect that needs neither a memo nor anything of other events."""

from __future__ import annotations

from tidelog.effects.definition import Attempt


async def remember(_: str) -> None:
    """Called by no effect that is tried so."""
    raise AssertionError("this effect needs no memo")


async def known(_: str, __: str) -> str | None:
    """Called by no effect that is tried so."""
    raise AssertionError("this effect needs to know of no other event")


ATTEMPT = Attempt(
    number=1,
    giving_up=False,
    message_id="m",
    correlation_id="x",
    memo="",
    remember=remember,
    known=known,
)
