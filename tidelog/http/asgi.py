"""The few pieces of ASGI that the edge works with: types, a bounded body, an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from tidelog.http.errors import ContentTooLarge, RequestTimeout
from tidelog.http.patience import Patience

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_TIMEOUT_MS: Final = 10_000
"""How long the whole body may take to arrive."""

DISCARDED_BYTES_MAX: Final = 64 * 1024 * 1024
DISCARD_TIMEOUT_MS: Final = 2_000
"""How much of a refused body is read and thrown away, so that its sender reads the answer."""

TOO_LARGE = f"The body may be at most {BODY_BYTES_MAX} bytes."
TOO_SLOW = "The body did not arrive in time."


class Connection(Protocol):
    """What a request may ask of its connection, in its scope as `tidelog.connection`.

    It is not there where the app is not called by our server, or the client has left already.
    """

    def begin_stream(self, unsent_bytes_max: int, on_shutdown: Callable[[], None]) -> None:
        """The answer has no end of its own: little of it may wait, and a stop must end it."""
        ...

    def abort(self) -> None:
        """Cut the connection off, whatever still waits to be sent."""
        ...


class Disconnected(Exception):
    """The client went away before its request was whole. Nobody is left to answer."""


class Body:
    """The body of a request, read once, and known to have ended or not."""

    __slots__ = ("_receive", "ended")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read(self, patience: Patience, declared: int | None) -> bytes:
        """The whole body; ContentTooLarge, RequestTimeout or Disconnected if it does not come."""
        if declared is not None and declared > BODY_BYTES_MAX:
            raise ContentTooLarge(TOO_LARGE)
        try:
            with patience.wait():
                body = await self._next()
                if not self.ended:
                    body = await self._read_rest(body)
        except TimeoutError:
            raise RequestTimeout(TOO_SLOW) from None
        if len(body) > BODY_BYTES_MAX:
            raise ContentTooLarge(TOO_LARGE)
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks as they arrive."""
        while not self.ended:
            yield await self._next()

    async def discard(self) -> None:
        """Read on, within bounds, and keep nothing."""
        left = DISCARDED_BYTES_MAX
        try:
            with Patience(DISCARD_TIMEOUT_MS / 1000).wait():
                while not self.ended and left > 0:
                    left -= len(await self._next())
        except (TimeoutError, Disconnected):
            return  # The bound is reached, or nobody listens any more: either way it ends here.

    async def _read_rest(self, first: bytes) -> bytes:
        body = bytearray(first)
        while not self.ended:
            body += await self._next()
            if len(body) > BODY_BYTES_MAX:
                raise ContentTooLarge(TOO_LARGE)
        return bytes(body)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise Disconnected
        self.ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


async def answer(send: Send, status: int, headers: HeaderList, content: bytes) -> None:
    """Send a whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def answer_and_close(
    body: Body, send: Send, status: int, headers: HeaderList, content: bytes
) -> None:
    """Send a whole answer, then read on for a while before the connection is closed.

    A connection that is closed on a client that still writes is reset, and the answer is lost.
    """
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await body.discard()
    await send({"type": "http.response.body", "body": b""})
