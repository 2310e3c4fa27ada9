"""All that there is to say about one order, asked for at once: `GET /orders/{id}/overview`.

Each part is a query of its own with a deadline of its own. A part that could not be told is named
in `gaps`; the others are told all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

import httpx2
import msgspec

from gateway.errors import GatewayTimeout
from gateway.guard import Admitted
from gateway.owners import NOTHING
from gateway.proxy import CORRELATION, Exchange, Proxy, request_headers
from gateway.routes import OPERATORS, OWN_ORDER, RoutedPath, Upstream
from tidelog.errors import Malformed, TidelogError, Unknown
from tidelog.http.asgi import HeaderList, answer
from tidelog.http.command_api import check_id
from tidelog.logging import current_correlation_id

OVERVIEW: Final = RoutedPath("GET", "/orders/{id}/overview", Upstream.QUERIES, OWN_ORDER)
PART_DEADLINE_S: Final = 2.0
"""For each part, beyond what it may wait for a consistency token."""

TOKEN_WAIT_MS: Final = 2_000
TOKEN_WAIT_MS_MAX: Final = 10_000

_CONDITIONS = frozenset((b"if-none-match", b"if-match", b"last-event-id", b"content-length"))


class Part(NamedTuple):
    """A part and the query that tells it."""

    name: str
    template: str
    saga: bool = False
    """Only those see it who may ask for sagas; it is no read model and waits for no token."""


PARTS: Final = (
    Part("order", "/orders/{}"),
    Part("payment", "/payments/{}"),
    Part("shipment", "/shipments/{}"),
    Part("fulfilment", "/sagas/fulfilment:{}", saga=True),
)


class Gap(msgspec.Struct, frozen=True):
    """A part that could not be told, and why."""

    part: str
    status: int
    type: str


class _Problem(msgspec.Struct):
    type: str = "/problems/internal-error"


class Told(NamedTuple):
    """A part: its document (None where there is none yet), how far it is, or why it is missing."""

    part: Part
    document: msgspec.Raw | None = None
    as_of: str = ""
    gap: Gap | None = None


class Overview(Proxy):
    """Asks for all parts at once, and puts together what came in time."""

    async def pass_on(
        self,
        routed: RoutedPath,  # noqa: ARG002 - there is one
        admitted: Admitted,
        content: bytes | None,  # noqa: ARG002 - and it takes no body
        exchange: Exchange,
    ) -> None:
        """Answer with the overview; Unknown where there is no such order."""
        scope, _, send = exchange
        order_id = unquote_to_bytes(scope["raw_path"].split(b"/")[2]).decode("utf-8", "replace")
        check_id(order_id, "id")
        headers = request_headers(scope["headers"], admitted)
        given = dict(headers)
        wait_ms = _wait_ms(admitted.query, b"consistency-token" in given)
        asked = [pair for pair in headers if pair[0] not in _CONDITIONS]
        told = await asyncio.gather(
            *(self._tell(part, order_id, wait_ms, asked) for part in PARTS if _sees(part, admitted))
        )
        if told[0].document is None and told[0].gap is None:
            raise Unknown(NOTHING)
        body = _body(order_id, told)
        tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode("ascii")
        answered = _headers(told, tag)
        if current_correlation_id.get() is None:
            answered.append((CORRELATION, given[CORRELATION]))
        if admitted.standing is not None:
            answered += admitted.standing.headers()
        if dict(scope["headers"]).get(b"if-none-match") == tag:
            await answer(send, 304, answered, b"")
            return
        answered.append((b"content-length", b"%d" % len(body)))
        await answer(send, 200, answered, b"" if scope["method"] == "HEAD" else body)

    async def _tell(self, part: Part, order_id: str, wait_ms: int, headers: HeaderList) -> Told:
        query = f"?wait_ms={wait_ms}" if wait_ms and not part.saga else ""
        target = (part.template.format(order_id) + query).encode("ascii")
        try:
            async with asyncio.timeout(PART_DEADLINE_S + wait_ms / 1_000):
                return _read(part, await self.services.ask(target, headers))
        except TimeoutError:
            return _missing(part, GatewayTimeout.status, GatewayTimeout.slug())
        except TidelogError as error:
            return _missing(part, error.status, error.slug())


def _sees(part: Part, admitted: Admitted) -> bool:
    return not part.saga or bool(admitted.caller.scopes & OPERATORS.scopes)


def _read(part: Part, answered: httpx2.Response) -> Told:
    if answered.status_code == 404:
        return Told(part)
    if answered.status_code == 200:
        as_of = str(answered.headers.get("x-as-of", ""))
        return Told(part, msgspec.Raw(answered.content), as_of)
    try:
        kind = msgspec.json.decode(answered.content, type=_Problem).type
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = _Problem().type
    return _missing(part, answered.status_code, kind.removeprefix("/problems/"))


def _missing(part: Part, status: int, slug: str) -> Told:
    return Told(part, gap=Gap(part.name, status, f"/problems/{slug}"))


def _body(order_id: str, told: list[Told]) -> bytes:
    document: dict[str, object] = {"id": order_id}
    document |= {each.part.name: each.document for each in told}
    document["gaps"] = [each.gap for each in told if each.gap is not None]
    return msgspec.json.encode(document)


def _headers(told: list[Told], tag: bytes) -> HeaderList:
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"private, no-cache"),
        (b"etag", tag),
    ]
    as_of = least([each.as_of for each in told if each.as_of])
    return [*headers, (b"x-as-of", as_of.encode("ascii"))] if as_of else headers


def least(tokens: list[str]) -> str:
    """The token that all of these have reached: of each partition the smallest sequence."""
    reached: dict[str, int] = {}
    for position in ",".join(tokens).split(","):
        partition, _, sequence = position.rpartition(":")
        if partition:
            reached[partition] = min(int(sequence), reached.get(partition, int(sequence)))
    return ",".join(f"{partition}:{sequence}" for partition, sequence in sorted(reached.items()))


def _wait_ms(query: bytes, token_given: bool) -> int:
    """How long a token is waited for; 0 where none is given. Malformed beyond its bounds."""
    pairs = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    if pairs.keys() - {"wait_ms"}:
        raise Malformed("This query takes wait_ms only.")
    given = pairs.get("wait_ms", str(TOKEN_WAIT_MS))
    if not (
        given.isascii() and given.isdigit() and len(given) <= 5 and int(given) <= TOKEN_WAIT_MS_MAX
    ):
        raise Malformed(f"wait_ms is 0 to {TOKEN_WAIT_MS_MAX}.")
    return int(given) if token_given else 0
