"""The proxy of the routes whose answers may be kept: gateway/cache.py says for how long.

The guard has let the request in before the cache is asked, and what is kept is found by path and
query as they go on after it; so nobody is shown from here what they could not have asked for.
Each answer of such a route says in Cache-Status (RFC 9211) where it comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

import httpx2
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.cache import BODY_BYTES_MAX, Cache, Depends, Entry
from gateway.errors import BadGateway
from gateway.guard import Admitted, Guard
from gateway.positions import now
from gateway.proxy import CORRELATION, Exchange, Proxy, answer_headers, request_headers, target_of
from gateway.routes import Kept, RoutedPath, Upstream
from gateway.services import Services
from tidelog.errors import Malformed
from tidelog.http.asgi import HeaderList, Scope, answer
from tidelog.http.headers import has_already
from tidelog.logging import current_correlation_id

NAME: Final = b"Tidelog"
_CONDITION: Final = b"if-none-match"

# Of an answer that is kept, what is of the one request that brought it.
_OF_THE_REQUEST: Final = frozenset((b"date", CORRELATION))
_WITHOUT_BODY: Final = frozenset((b"content-length", b"content-type"))


class CachingProxy(Proxy, Collector):
    """Answers from the cache what holds, and keeps what the query service answers."""

    def __init__(
        self, services: Services, guard: Guard, streams_per_caller_max: int, cache: Cache
    ) -> None:
        super().__init__(services, guard, streams_per_caller_max)
        self._cache = cache
        self._outcomes: Counter[str] = Counter(hit=0, miss=0, bypass=0)

    async def _ask(
        self,
        routed: RoutedPath,
        admitted: Admitted,
        content: bytes | None,
        exchange: Exchange,
        more: HeaderList,
    ) -> None:
        kept = routed.kept
        if kept is None or not self._cache.bytes_max:
            await super()._ask(routed, admitted, content, exchange, more)
            return
        reason = self._bypass(kept, admitted, content, exchange[0])
        if reason:
            self._outcomes["bypass"] += 1
            status = (b"cache-status", b"%b; fwd=bypass; detail=%b" % (NAME, reason))
            await super()._ask(routed, admitted, content, exchange, [*more, status])
            return
        key = target_of(exchange[0]["raw_path"], admitted.query)
        there = self._cache.holds(key)
        entry = self._cache.find(key)
        if entry is not None:
            self._outcomes["hit"] += 1
            await _answer(entry, b"hit", admitted, exchange)
            return
        self._outcomes["miss"] += 1
        await self._fetch(key, kept, admitted, exchange, b"fwd=stale" if there else b"fwd=uri-miss")

    def _bypass(self, kept: Kept, admitted: Admitted, content: bytes | None, scope: Scope) -> bytes:
        """Why the cache has nothing to say to this request; empty where it has."""
        names = {name for name, _ in scope["headers"]}
        if b"consistency-token" in names:
            return b"token"
        if not names.isdisjoint((b"cache-control", b"pragma")):
            return b"asked"
        if content is not None or (admitted.query and not kept.any_query):
            return b"form"
        if not self._cache.positions.known(now()):
            return b"positions-unknown"
        try:
            has_already(_condition(scope), "")
        except Malformed:
            return b"form"  # the query service says what is wrong
        return b""

    def _learn(self, routed: RoutedPath, answered: httpx2.Response) -> None:
        """An answer that passes the cache by tells how far its read model is."""
        if routed.kept is not None and self._cache.bytes_max:
            self._cache.positions.learn(routed.kept.projection, answered.headers.get("x-as-of", ""))

    async def _fetch(
        self, key: bytes, kept: Kept, admitted: Admitted, exchange: Exchange, status: bytes
    ) -> None:
        """Ask for the whole answer, whatever the caller has already: it is kept for all."""
        scope = exchange[0]
        asked_at, depends = self._cache.positions.moment, self._depends(kept, scope)
        headers = [
            pair for pair in request_headers(scope["headers"], admitted) if pair[0] != _CONDITION
        ]
        answered = await self.services.send(Upstream.QUERIES, "GET", key, headers)
        try:
            if not _whole(answered):
                more = [(b"cache-status", b"%b; %b" % (NAME, status))]
                await self._pass_answer(answered, admitted, exchange, more)
                return
            entry = await _read(answered, depends, asked_at)
        finally:
            await answered.aclose()
        if self._cache.keep(key, entry, answered.headers["x-as-of"]):
            status += b"; stored"
        await _answer(entry, status, admitted, exchange)

    def _depends(self, kept: Kept, scope: Scope) -> Depends:
        if not kept.context:
            return Depends(kept.projection)
        segment = unquote_to_bytes(scope["raw_path"].split(b"/")[2])
        key = segment.decode("utf-8", "replace")
        return self._cache.positions.home(kept.projection, kept.context, key)

    def collect(self) -> Iterator[Metric]:
        """How the cache does, as Prometheus reads it."""
        counter = CounterMetricFamily(
            "tidelog_gateway_cache_requests",
            "Queries that may be kept: answered from the cache (hit), asked for (miss), passed by.",
            labels=("outcome",),
        )
        for outcome, count in self._outcomes.items():
            counter.add_metric((outcome,), count)
        yield counter
        yield GaugeMetricFamily(
            "tidelog_gateway_cache_bytes", "What the cache holds.", value=self._cache.bytes
        )
        yield GaugeMetricFamily(
            "tidelog_gateway_cache_entries", "Answers that it holds.", value=len(self._cache)
        )
        yield GaugeMetricFamily(
            "tidelog_gateway_cache_on",
            "1 while the positions of the read models are heard, else 0: nothing is kept.",
            value=float(self._cache.positions.known(now())),
        )


def _whole(answered: httpx2.Response) -> bool:
    """Whether this is an answer to keep, and small enough to be read whole."""
    headers = answered.headers
    length = headers.get("content-length", "")
    return (
        answered.status_code == httpx2.codes.OK
        and {"etag", "x-as-of"} <= headers.keys()
        and "set-cookie" not in headers
        and length.isdecimal()
        and int(length) <= BODY_BYTES_MAX
    )


async def _read(answered: httpx2.Response, depends: Depends, asked_at: int) -> Entry:
    try:
        body = await answered.aread()
    except httpx2.TransportError:
        raise BadGateway("The service broke off its answer.") from None
    headers = [pair for pair in answer_headers(answered) if pair[0] not in _OF_THE_REQUEST]
    tag = answered.headers["etag"].removeprefix("W/").strip('"')
    return Entry(depends, asked_at, headers, tag, body)


async def _answer(entry: Entry, status: bytes, admitted: Admitted, exchange: Exchange) -> None:
    scope, _, send = exchange
    headers = [*entry.headers, (b"cache-status", b"%b; %b" % (NAME, status))]
    if current_correlation_id.get() is None:
        headers.append(_correlation(scope, admitted))
    if admitted.standing is not None:
        headers += admitted.standing.headers()
    if has_already(_condition(scope), entry.tag):
        headers = [pair for pair in headers if pair[0] not in _WITHOUT_BODY]
        await answer(send, 304, headers, b"")
        return
    await answer(send, 200, headers, b"" if scope["method"] == "HEAD" else entry.body)


def _correlation(scope: Scope, admitted: Admitted) -> tuple[bytes, bytes]:
    """The one that is made where the caller gave none."""
    return next(
        pair for pair in request_headers(scope["headers"], admitted) if pair[0] == CORRELATION
    )


def _condition(scope: Scope) -> str:
    return b",".join(value for name, value in scope["headers"] if name == _CONDITION).decode(
        "latin-1"
    )
