"""Passing a request on to a service and its answer back, unchanged but for what HTTP asks.

The path goes on as it came, byte by byte: what an escape means is the service's to say. A body is
bounded, so it is read whole first: one that is too large or too slow is refused here, before the
service hears of the request, and a slow caller holds no connection to it. The answer is streamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

import httpx2
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from gateway.errors import BadGateway, GatewayTimeout
from gateway.routes import RoutedPath, Upstream
from tidelog.errors import Overloaded
from tidelog.http.asgi import (
    BODY_TIMEOUT_MS,
    Body,
    HeaderList,
    Receive,
    Scope,
    Send,
    answer_and_close,
)
from tidelog.http.errors import ContentTooLarge, RequestTimeout
from tidelog.http.headers import by_name, content_length
from tidelog.http.patience import Patience
from tidelog.http.problems import problem_response
from tidelog.ids import uuid7
from tidelog.logging import current_correlation_id

CONNECTIONS_MAX: Final = 256
CONNECT_TIMEOUT_S: Final = 2.0
WRITE_TIMEOUT_S: Final = 10.0
POOL_TIMEOUT_S: Final = 2.0
# Shorter than the services keep an idle connection: they never close one under a request.
IDLE_S: Final = 30.0

_CORRELATION = b"x-correlation-id"
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)


class Services:
    """The services behind the gateway, and the connections to them."""

    def __init__(self, urls: Mapping[Upstream, str], *, answer_timeout_s: float) -> None:
        self._urls = {upstream: httpx2.URL(url) for upstream, url in urls.items()}
        self._body_patience = Patience(BODY_TIMEOUT_MS / 1_000)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(
                connect=CONNECT_TIMEOUT_S,
                read=answer_timeout_s,
                write=WRITE_TIMEOUT_S,
                pool=POOL_TIMEOUT_S,
            ),
            limits=httpx2.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=CONNECTIONS_MAX,
                keepalive_expiry=IDLE_S,
            ),
            follow_redirects=False,
            trust_env=False,  # services are neighbours, never behind somebody's proxy
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def problem(self, upstream: Upstream) -> str | None:
        """Why the service cannot be reached, or None."""
        try:
            answer = await self._client.get(self._urls[upstream].join("/livez"))
        except httpx2.HTTPError as error:
            return f"{upstream.value}: {type(error).__name__}"
        return None if answer.status_code == 200 else f"{upstream.value} is not alive"

    async def forward(self, upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and the answer back."""
        given = by_name(scope["headers"])
        body = Body(receive)
        try:
            content = await self._content(given, body)
        except (ContentTooLarge, RequestTimeout) as error:
            refused = problem_response(error, scope["path"])
            await answer_and_close(
                body, send, error.status, refused.raw_headers, bytes(refused.body)
            )
            return
        correlation_id = current_correlation_id.get()
        request = httpx2.Request(
            scope["method"],
            self._urls[upstream],
            headers=_request_headers(scope["headers"], correlation_id or uuid7()),
            content=content,
            extensions={
                "target": _target(scope),
                "timeout": self._client.timeout.as_dict(),
            },
        )
        answer = await self._sent(request)
        try:
            # Where the caller gave a correlation id, the frame around us answers it.
            dropped = (_CORRELATION,) if correlation_id else ()
            await _pass_back(answer, dropped, send)
        finally:
            await answer.aclose()

    async def _content(self, given: dict[bytes, bytes], body: Body) -> bytes | None:
        if b"content-length" not in given and b"transfer-encoding" not in given:
            return None
        return await body.read(self._body_patience, content_length(given))

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._client.send(request, stream=True)
        except httpx2.PoolTimeout:
            raise Overloaded("Every connection to the service is busy.") from None
        except httpx2.TimeoutException:
            raise GatewayTimeout("The service did not answer in time.") from None
        except httpx2.TransportError:
            raise BadGateway("The service did not answer.") from None


class ProxyRoute(BaseRoute):
    """One routed path, matched segment by segment."""

    def __init__(self, routed: RoutedPath, services: Services) -> None:
        self.path = routed.template
        self._method = routed.method
        self._upstream = routed.upstream
        self._segments = routed.template.encode("ascii").split(b"/")
        # Which of these paths there are, and so for which methods, only the service knows.
        self._any_path = routed.template.startswith("/{")
        self._services = services

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path is this one, and the method too."""
        if scope["type"] != "http":
            return Match.NONE, {}
        # Split before it is decoded, as the services do: an escaped slash is no slash.
        segments = [unquote_to_bytes(segment) for segment in scope["raw_path"].split(b"/")]
        if not self._is_path(segments):
            return Match.NONE, {}
        full = scope["method"] == self._method
        return (Match.FULL if full else Match.PARTIAL), {"route": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["method"] != self._method and not self._any_path:
            raise HTTPException(405, headers={"Allow": self._method})
        await self._services.forward(self._upstream, scope, receive, send)

    def _is_path(self, segments: Sequence[bytes]) -> bool:
        if len(segments) != len(self._segments):
            return False
        return all(
            given == own or (own.startswith(b"{") and given)
            for given, own in zip(segments, self._segments, strict=True)
        )


def _target(scope: Scope) -> bytes:
    """Path and query as they came."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _request_headers(given: Iterable[tuple[bytes, bytes]], correlation_id: str) -> HeaderList:
    headers = _end_to_end(given, (b"host", b"content-length", _CORRELATION))
    length = [pair for pair in given if pair[0] == b"content-length"]
    return [*headers, *length, (_CORRELATION, correlation_id.encode("ascii"))]


async def _pass_back(answer: httpx2.Response, dropped: Sequence[bytes], send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": _end_to_end(answer.headers.raw, (b"date", *dropped)),
        }
    )
    try:
        async for chunk in answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx2.TransportError:
        # An answer that has begun can only be broken off; the caller sees that it is not whole.
        raise BadGateway("The service broke off its answer.") from None
    await send({"type": "http.response.body", "body": b""})


def _end_to_end(pairs: Iterable[tuple[bytes, bytes]], dropped: Sequence[bytes]) -> HeaderList:
    """The headers that are not for one hop only (RFC 9110, 7.6.1), without those named."""
    lowered = [(name.lower(), value) for name, value in pairs]
    named = {
        token.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for token in value.split(b",")
    }
    gone = _HOP_BY_HOP | named | set(dropped)
    return [(name, value) for name, value in lowered if name not in gone]
