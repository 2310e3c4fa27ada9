"""Passing a request on to a service and its answer back, unchanged but for what HTTP asks.

The path goes on as it came, byte by byte: what an escape means is the service's to say. A body is
bounded, so it is read whole first: one that is too large or too slow is refused here, before the
service hears of the request, and a slow caller holds no connection to it. The answer is streamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from urllib.parse import unquote_to_bytes

import httpx2
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from gateway.caller import LOCAL
from gateway.errors import BadGateway
from gateway.guard import Admitted, Guard
from gateway.owners import NotTold
from gateway.quotas import TooMany
from gateway.routes import RoutedPath
from gateway.services import Services
from gateway.streams import StreamSlots, pass_stream
from tidelog.http.asgi import (
    BODY_TIMEOUT_MS,
    Body,
    HeaderList,
    Receive,
    Scope,
    Send,
    answer,
    answer_and_close,
)
from tidelog.http.errors import ContentTooLarge, QuotaExceeded, RequestTimeout
from tidelog.http.headers import by_name, content_length
from tidelog.http.patience import Patience
from tidelog.http.ports import CALLER_HEADER, ONLY_OF_HEADER
from tidelog.http.problems import problem_response
from tidelog.ids import uuid7
from tidelog.logging import current_correlation_id

_TOO_MANY = "Too many requests on this path in a short time. Retry-After says when to go on."
CORRELATION = b"x-correlation-id"
_OURS = b"x-tidelog-"
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


Exchange = tuple[Scope, Receive, Send]


class Proxy:
    """Lets in what the guard lets in, passes it on, and the answer back."""

    def __init__(self, services: Services, guard: Guard, streams_per_caller_max: int) -> None:
        self.services = services
        self._slots = StreamSlots(streams_per_caller_max)
        self._guard = guard
        self._body_patience = Patience(BODY_TIMEOUT_MS / 1_000)

    async def forward(self, routed: RoutedPath, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request as the service does, or refuse it."""
        given = by_name(scope["headers"])
        body = Body(receive)
        try:
            admitted = await self._guard.admit(routed, scope, given)
            content = await self._content(given, body)
            if admitted.check_body is not None:
                await admitted.check_body(content or b"")
        except (ContentTooLarge, RequestTimeout) as error:
            refused = problem_response(error, scope["path"])
            await answer_and_close(
                body, send, error.status, refused.raw_headers, bytes(refused.body)
            )
        except TooMany as too_many:
            refused = problem_response(QuotaExceeded(_TOO_MANY), scope["path"])
            given_up = [pair for pair in refused.raw_headers if pair[0] != b"retry-after"]
            headers = [*given_up, *too_many.standing.headers()]
            await answer(send, refused.status_code, headers, bytes(refused.body))
        except NotTold as untold:
            headers = answer_headers(untold.answer)
            await answer(send, untold.answer.status_code, headers, untold.answer.content)
        else:
            await self.pass_on(routed, admitted, content, (scope, receive, send))

    async def pass_on(
        self,
        routed: RoutedPath,
        admitted: Admitted,
        content: bytes | None,
        exchange: Exchange,
    ) -> None:
        """Answer a request that may go on."""
        with self._slots.taken(admitted.caller) if routed.streams else nullcontext():
            await self._ask(routed, admitted, content, exchange, [])

    async def _ask(
        self,
        routed: RoutedPath,
        admitted: Admitted,
        content: bytes | None,
        exchange: Exchange,
        more: HeaderList,
    ) -> None:
        """Ask the service; `more` are headers of ours for its answer."""
        scope = exchange[0]
        answered = await self.services.send(
            routed.upstream,
            "GET" if scope["method"] == "HEAD" else scope["method"],
            target_of(scope["raw_path"], admitted.query),
            request_headers(scope["headers"], admitted),
            content,
            streams=routed.streams,
        )
        try:
            self._guard.answered(admitted, answered.status_code)
            self._learn(routed, answered)
            await self._pass_answer(answered, admitted, exchange, more, streams=routed.streams)
        finally:
            await answered.aclose()

    def _learn(self, routed: RoutedPath, answered: httpx2.Response) -> None:
        """What an answer tells beside what was asked is of no use here."""

    async def _pass_answer(
        self,
        answered: httpx2.Response,
        admitted: Admitted,
        exchange: Exchange,
        more: HeaderList,
        *,
        streams: bool = False,
    ) -> None:
        scope, receive, send = exchange
        headers = answer_headers(answered) + more
        if admitted.standing is not None:
            headers += admitted.standing.headers()
        if streams:
            chunks = answered.aiter_raw()
            await pass_stream(scope, receive, send, answered.status_code, headers, chunks)
        else:
            await _pass_back(answered, headers, send, head_only=scope["method"] == "HEAD")

    async def _content(self, given: dict[bytes, bytes], body: Body) -> bytes | None:
        if b"content-length" not in given and b"transfer-encoding" not in given:
            return None
        return await body.read(self._body_patience, content_length(given))


class ProxyRoute(BaseRoute):
    """One routed path, matched segment by segment."""

    def __init__(self, routed: RoutedPath, proxy: Proxy) -> None:
        self.path = routed.template
        # What is read may be asked for without its body; a stream is nothing but its body.
        also_head = routed.method == "GET" and not routed.streams
        self._methods = (routed.method, "HEAD") if also_head else (routed.method,)
        self.routed = routed
        self._segments = routed.template.encode("ascii").split(b"/")
        # Which of these paths there are, and so for which methods, only the service knows.
        self._any_path = routed.template.startswith("/{")
        self._proxy = proxy

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path is this one, and the method too."""
        if scope["type"] != "http":
            return Match.NONE, {}
        # Split before it is decoded, as the services do: an escaped slash is no slash.
        segments = [unquote_to_bytes(segment) for segment in scope["raw_path"].split(b"/")]
        if not self._is_path(segments):
            return Match.NONE, {}
        full = scope["method"] in self._methods
        return (Match.FULL if full else Match.PARTIAL), {"route": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["method"] not in self._methods and not self._any_path:
            raise HTTPException(405, headers={"Allow": ", ".join(self._methods)})
        await self._proxy.forward(self.routed, scope, receive, send)

    def _is_path(self, segments: Sequence[bytes]) -> bool:
        if len(segments) != len(self._segments):
            return False
        return all(
            given == own or (own.startswith(b"{") and given)
            for given, own in zip(segments, self._segments, strict=True)
        )


def target_of(path: bytes, query: bytes) -> bytes:
    """The path as it came, and the query as it goes on."""
    return path + b"?" + query if query else path


def answer_headers(answered: httpx2.Response) -> HeaderList:
    """What of the answer's headers goes back, without those that are ours to say."""
    # Where the caller gave a correlation id, the frame around us answers it.
    ours = (b"date", CORRELATION) if current_correlation_id.get() else (b"date",)
    return _end_to_end(answered.headers.raw, ours)


def request_headers(given: Iterable[tuple[bytes, bytes]], admitted: Admitted) -> HeaderList:
    """What the service hears: who the caller is from us, and from nobody else."""
    dropped = (b"host", b"content-length", b"authorization", CORRELATION)
    headers = [pair for pair in _end_to_end(given, dropped) if not pair[0].startswith(_OURS)]
    headers += [pair for pair in given if pair[0] == b"content-length"]
    headers.append((CORRELATION, (current_correlation_id.get() or uuid7()).encode("ascii")))
    if admitted.caller is not LOCAL:
        name = admitted.caller.name.encode("ascii")
        headers.append((CALLER_HEADER, name))
        if admitted.restricted:
            headers.append((ONLY_OF_HEADER, name))
    return headers


async def _pass_back(
    answered: httpx2.Response, headers: HeaderList, send: Send, *, head_only: bool
) -> None:
    status = answered.status_code
    await send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        async for chunk in answered.aiter_raw():
            if not head_only:
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
