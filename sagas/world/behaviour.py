"""How a simulator behaves: as told, by `PUT /behaviour`."""

from __future__ import annotations

import asyncio
import random
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from tidelog.errors import Invalid, Unavailable

Mode = Literal["approve", "decline", "slow", "hang", "error", "lose-answer", "twice"]

Content = TypeVar("Content", bound=msgspec.Struct)

HANG_S_MAX = 60.0
LOOK_S = 0.02


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of calls: `rate` of them (0 to 1) go by the mode, the others well.

    `delay_ms` is how long a slow call takes. `only` names whom it is about, where one simulator
    stands for several.
    """

    mode: Mode = "approve"
    delay_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000
    rate: Annotated[float, Meta(ge=0, le=1)] = 1.0
    only: str = ""

    def drawn(self, name: str = "") -> Mode:
        """The mode of the next call."""
        concerned = self.only in ("", name) and random.random() < self.rate
        return self.mode if concerned else "approve"


class Failing(Unavailable):
    """The simulator was told to fail."""


async def before(request: Request, mode: Mode, delay_ms: int) -> None:
    """What happens before a call is done, so that it may never be."""
    if mode == "error":
        raise Failing("Told to fail.")
    if mode == "slow":
        await asyncio.sleep(delay_ms / 1000)
    if mode == "hang":
        await hang(request)


async def hang(request: Request) -> None:
    """Give no answer, until whoever waits for it has left."""
    for _ in range(int(HANG_S_MAX / LOOK_S)):
        if await request.is_disconnected():
            break
        await asyncio.sleep(LOOK_S)
    raise Failing("Nobody waits any more.")


def key_of(request: Request) -> str:
    """The idempotency key of the call."""
    key = request.headers.get("idempotency-key", "")
    if not 1 <= len(key) <= 300:
        raise Invalid("An Idempotency-Key of 1 to 300 characters is required.")
    return key


def decoded(content: bytes, kind: type[Content]) -> Content:
    """What was sent, checked."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise Invalid(str(error)) from None
