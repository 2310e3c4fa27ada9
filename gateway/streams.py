"""Passing on an answer that has no end of its own: until the caller or the service leaves.

The caller's leaving is watched for, because a server that is sent to after it says nothing. A
caller that takes nothing for too long is cut off, so that it holds no stream of the service.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from gateway.caller import LOCAL, Caller
from tidelog.http.asgi import Connection, HeaderList, Receive, Scope, Send
from tidelog.http.errors import QuotaExceeded

SOCKET_BUFFER_BYTES: Final = 64 * 1024
SEND_TIMEOUT_S: Final = 20.0


class StreamSlots:
    """How many streams each caller has open."""

    def __init__(self, per_caller_max: int) -> None:
        self._per_caller_max = per_caller_max
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, caller: Caller) -> Iterator[None]:
        """Hold a slot inside the context; QuotaExceeded where the caller has none left.

        While authentication is off there is one caller, and nothing is counted.
        """
        if caller is LOCAL:
            yield
            return
        if self._open[caller.name] >= self._per_caller_max:
            raise QuotaExceeded("Too many event streams are open. Close one, or try again later.")
        self._open[caller.name] += 1
        try:
            yield
        finally:
            self._open[caller.name] -= 1
            if not self._open[caller.name]:
                del self._open[caller.name]


async def pass_stream(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    headers: HeaderList,
    chunks: AsyncIterator[bytes],
) -> None:
    """Pass the chunks on as they come. What the service breaks off is broken off here."""
    connection: Connection | None = scope.get("tidelog.connection")
    stopping = asyncio.Event()
    if connection is not None:
        connection.begin_stream(SOCKET_BUFFER_BYTES, stopping.set)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    passing = asyncio.create_task(_pass_chunks(chunks, send))
    try:
        await _first_of(passing, _until_gone(receive), stopping.wait())
        if passing.done() and passing.exception() is not None:
            if connection is not None:
                connection.abort()
        elif passing.done() or stopping.is_set():
            await send({"type": "http.response.body", "body": b""})
    finally:
        passing.cancel()
        await asyncio.wait({passing})


async def _pass_chunks(chunks: AsyncIterator[bytes], send: Send) -> None:
    async for chunk in chunks:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _first_of(task: asyncio.Task[None], *others: Coroutine[Any, Any, Any]) -> None:
    """Wait until the task or one of the others is done; the others are then given up."""
    watching = {asyncio.create_task(other) for other in others}
    try:
        await asyncio.wait({task, *watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in watching:
            each.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
