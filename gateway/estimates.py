"""When an order that is placed now will be confirmed, by how long orders take at present.

The query service tells how long they take. It is asked in the background, so no checkout waits for
it; what was heard too long ago is not told any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx2
import msgspec

from gateway.owners import Ask
from gateway.proxy import CORRELATION
from tidelog.errors import TidelogError
from tidelog.ids import uuid7
from tidelog.logging import get_logger

PATH: Final = b"/sagas/durations"
REFRESH_S: Final = 5.0
ASK_TIMEOUT_S: Final = 5.0
AGE_MAX_S: Final = 30.0

_log = get_logger("gateway")


class Seconds(msgspec.Struct, frozen=True):
    """Within which one order of two, and nineteen of twenty, are confirmed."""

    p50: float | None
    p95: float | None


class Durations(msgspec.Struct, frozen=True):
    """How long the latest orders took; `samples` are those that are confirmed."""

    samples: int
    seconds: Seconds


class Estimate(msgspec.Struct, frozen=True):
    """`at` is the time by which one order of two is confirmed."""

    at: str
    seconds: Seconds
    samples: int


class Estimates:
    """Keeps what was heard last."""

    def __init__(self, ask: Ask, now: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._now = now
        self._heard: Durations | None = None
        self._heard_at = 0.0

    def for_an_order_placed_now(self) -> Estimate | None:
        """None where nobody knows: nothing heard lately, or too few orders are confirmed."""
        heard = self._heard
        if heard is None or self._now() - self._heard_at > AGE_MAX_S:
            return None
        if heard.seconds.p50 is None:
            return None
        at = datetime.now(UTC) + timedelta(seconds=heard.seconds.p50)
        text = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return Estimate(text, heard.seconds, heard.samples)

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Ask once. Where no answer comes, the last one holds for a while."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                answer = await self._ask(PATH, [(CORRELATION, uuid7().encode("ascii"))])
        except (TimeoutError, TidelogError) as error:
            _log.info("durations are not told", reason=type(error).__name__)
            return
        if answer.status_code != httpx2.codes.OK:
            return  # before the sagas have run there are none
        try:
            self._heard = msgspec.json.decode(answer.content, type=Durations)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("durations cannot be read", reason=type(error).__name__)
            return
        self._heard_at = self._now()
