"""Bounds on what comes before a request: the header block, the wait for it, the connections.

uvicorn's own protocol for httptools has none of these, and answers what it cannot parse in plain
text. Here every refusal is a problem document.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tidelog.errors import Malformed, Overloaded, TidelogError
from tidelog.http.errors import HeadersTooLarge, RequestTimeout
from tidelog.http.headers import continued_trace
from tidelog.http.problems import MEDIA_TYPE, problem_headers, problem_of

HEAD_BYTES_MAX: Final = 32 * 1024
HEAD_TIMEOUT_S: Final = 10.0
"""How long a connection may take over the head of its request, and before its first one."""

CONNECTIONS_MAX: Final = 8_192
LINGER_S: Final = 1.0
"""How long a refused connection is read from, so that its sender gets the answer."""

_FIELD_OVERHEAD = 4  # ": " and CR LF


class BoundedProtocol(HttpToolsProtocol):
    """The server's side of one connection."""

    head_timeout_s: float = HEAD_TIMEOUT_S
    connections_max: int = CONNECTIONS_MAX

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_open = False
        self._head_bytes = 0
        self._chunk_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._fault: TidelogError | None = None
        self.deaf = False  # Nothing more is read from this connection.
        self._on_shutdown: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many; wait for the first request only so long."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            self._refuse(Overloaded("Too many connections are open. Try again later."))
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and let go of what refers back to here."""
        self._stop_head_timer()
        self._on_shutdown = None
        if self.scope is not None:
            self.scope.pop("tidelog.connection", None)  # type: ignore[typeddict-item]
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Finish the answer in hand; one that has no end of its own is told to end."""
        super().shutdown()
        if self._on_shutdown is not None:
            self._on_shutdown()

    def begin_stream(self, unsent_bytes_max: int, on_shutdown: Callable[[], None]) -> None:
        """The answer has no end of its own: little of it may wait, and a stop must end it."""
        self._on_shutdown = on_shutdown
        opened: socket.socket | None = self.transport.get_extra_info("socket")
        if opened is not None and not self.transport.is_closing():
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, unsent_bytes_max)

    def abort(self) -> None:
        """Cut the connection off, whatever still waits to be sent."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and look at what a head that goes on has taken so far."""
        if self.deaf:
            return
        self._chunk_bytes = len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self.deaf:
                self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self.deaf:
                self._refuse(self._fault or Malformed("The request is not valid HTTP/1.1."))
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(_too_large())
            elif self._head_timer is None:
                self._start_head_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_open = True
        super().on_message_begin()
        self.scope["tidelog.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """A head ends. Its size is only counted where it can be over the bound."""
        self._head_open = False
        if self._head_timer is not None:
            self._stop_head_timer()
        if self._head_bytes + self._chunk_bytes > HEAD_BYTES_MAX:
            self._check_head()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request ends; one that asks for an upgrade does not end with its head."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Serve the request as what it also is: HTTP/1.1.

        Some clients offer h2c with every first request. The parser takes what follows the head
        for another protocol, so the body is given to a fresh one that is told of a body only.
        """
        self.cycle.keep_alive = False
        framing = b"".join(
            b"%b: %b\r\n" % header
            for header in self.headers
            if header[0] in (b"content-length", b"transfer-encoding")
        )
        if not framing:
            super().on_message_complete()
            return
        self.parser = httptools.HttpRequestParser(_BodyOnly(self))
        self.data_received(b"POST / HTTP/1.1\r\n" + framing + b"\r\n" + rest)

    def _check_head(self) -> None:
        fields = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in self.headers)
        if fields + len(self.url) > HEAD_BYTES_MAX:
            self._fault = _too_large()
            raise httptools.HttpParserError("the head is too large")

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._head_open:
            self._refuse(RequestTimeout("The request did not arrive in time."))
        else:
            self.transport.close()

    def _refuse(self, error: TidelogError) -> None:
        """Answer, and close the connection once its sender had the time to read that."""
        self.deaf = True
        self._stop_head_timer()
        if not self.transport.is_closing():
            self.transport.write(_refusal(error))
            self.loop.call_later(LINGER_S, self.transport.close)


class _BodyOnly:
    """Hands one body on to the connection, and nothing that comes after it."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._protocol.deaf:
            self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        """The end of the body."""
        if not self._protocol.deaf:
            self._protocol.on_message_complete()
            self._protocol.deaf = True


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"The request line and headers may be at most {HEAD_BYTES_MAX} bytes.")


def _refusal(error: TidelogError) -> bytes:
    trace_id = continued_trace(None).trace_id
    body = msgspec.json.encode(problem_of(error, "", trace_id))
    headers = [
        (b"content-type", MEDIA_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *problem_headers(error),
    ]
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
