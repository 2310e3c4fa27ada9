"""How long a connection may take to answer: a database that hangs is cut off, not waited for.

`statement_timeout` is kept by the server, so it bounds nothing once the server itself stands still,
and a cancellation asks that same server. What is left is the wire: with its end the statement that
waits on it fails at once, as it does when the server has gone, and the pool makes a new connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from types import TracebackType
from typing import Any, Final

from psycopg import AsyncConnection

RECONNECT_TIMEOUT_S: Final = 3.0
"""Of every pool. A pool doubles its pauses while it cannot connect, for 5 minutes by default; where
it gives up early it begins anew with the next request, so that a database that was away for minutes
is found again when it is back, and not half as long after it as it was away."""


class AnsweredWithin:
    """Cut the connection where what is done within the block takes longer than `seconds`."""

    __slots__ = ("_connection", "_seconds", "_timer")

    def __init__(self, connection: AsyncConnection[Any], seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, _cut, self._connection)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()


def _cut(connection: AsyncConnection[Any]) -> None:
    """End the connection under the statement that waits on it."""
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
