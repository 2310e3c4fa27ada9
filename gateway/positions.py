"""Listens to how far the read models are, so that answers can be kept while they stand still."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import httpx2
import msgspec

from gateway.cache import SILENCE_S, Cache, read_positions
from gateway.routes import Upstream
from gateway.services import Services
from tidelog.logging import get_logger

PATH: Final = b"/positions/live"
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 2.0

# It counts the time for which the machine was suspended, too.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_HEADERS: Final = [(b"accept", b"text/event-stream")]
_log = get_logger("gateway")


class _ReadModel(msgspec.Struct):
    positions: str


class _AllPositions(msgspec.Struct):
    partitions: int
    read_models: dict[str, _ReadModel]


_all_positions = msgspec.json.Decoder(_AllPositions)
_moved = msgspec.json.Decoder(dict[str, str])


class _Refused(Exception):
    """The query service has answered, and not with the stream."""


def now() -> float:
    """Seconds on the clock by which silence is measured."""
    return time.clock_gettime(_CLOCK)


class PositionStream:
    """Tells the cache what the query service tells; that it tells nothing, too."""

    def __init__(self, services: Services, cache: Cache) -> None:
        self._services = services
        self._cache = cache
        self._pause_s = PAUSE_S_MIN
        self._trouble = ""
        self._listening: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin to listen, where answers are kept at all."""
        if self._cache.bytes_max:
            self._listening = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})

    async def _run(self) -> None:
        """Listen until cancelled; a stream that ends is asked for again."""
        while True:
            try:
                await self._listen()
                trouble = "the stream has ended"
            except TimeoutError:
                trouble = f"nothing was heard for {SILENCE_S} s"
            except Exception as error:  # whatever it is: nothing is kept until all is heard again
                trouble = f"{type(error).__name__}: {error}"
            finally:
                self._cache.positions.lost()
            if trouble != self._trouble:
                self._trouble = trouble
                _log.warning("positions are not heard: no answer is kept", reason=trouble)
            await asyncio.sleep(self._pause_s * (1 + random.random()))
            self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    async def _listen(self) -> None:
        async with asyncio.timeout(SILENCE_S) as patience:
            answered = await self._services.send(
                Upstream.QUERIES, "GET", PATH, [*_HEADERS], streams=True
            )
            try:
                if answered.status_code != httpx2.codes.OK:
                    raise _Refused(f"status {answered.status_code}")
                event = ""
                async for line in answered.aiter_lines():
                    if line.startswith("event: "):
                        event = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        self._hear(event, line.removeprefix("data: "))
                        patience.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
            finally:
                await answered.aclose()

    def _hear(self, event: str, data: str) -> None:
        if event == "positions":
            told = _all_positions.decode(data)
            models = {
                name: read_positions(each.positions) for name, each in told.read_models.items()
            }
            self._cache.begin(models, told.partitions, now())
            self._pause_s = PAUSE_S_MIN
            self._trouble = ""
        elif event == "moved":
            for projection, positions in _moved.decode(data).items():
                self._cache.positions.moved(projection, read_positions(positions))
        self._cache.positions.proved(now())
