"""Who may do what, decided from the tables in routes.py before a service hears of a request.

A customer reaches their own only. Of what is another's they hear what they hear of nothing: 404.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import msgspec

from gateway.caller import CUSTOMER, LOCAL, SERVICE, Caller
from gateway.callers import Callers
from gateway.owners import NOTHING, Owners
from gateway.quotas import Quotas, Standing
from gateway.routes import COMMANDS, PUBLIC, SERVICES, Access, Own, RoutedPath
from tidelog.errors import Invalid, Malformed, Unknown
from tidelog.http.asgi import Scope
from tidelog.http.command_api import check_id
from tidelog.http.errors import Forbidden

LINES_PATH: Final = "/commands"

Headers = Mapping[bytes, bytes]
CheckBody = Callable[[bytes], Awaitable[None]]
Read = TypeVar("Read")


class _Placing(msgspec.Struct):
    customer_id: str


class _Returning(msgspec.Struct):
    order_id: str


class _Deciding(msgspec.Struct):
    operator: str


class _Line(msgspec.Struct):
    command: str
    data: msgspec.Raw = msgspec.Raw()


@dataclass(kw_only=True)
class Admitted:
    """A request that may go on, as it goes on."""

    caller: Caller
    query: bytes
    check_body: CheckBody | None = None
    placed: str | None = None
    """The order that it places for the caller, once it is answered well."""

    standing: Standing | None = None
    """How the caller stands with their quota."""

    restricted: bool = False
    """Whether the caller is here as a customer only."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Requests per minute of one caller on one route; 0 is no limit."""

    queries: int
    commands: int


class Guard:
    """Stands before every route."""

    def __init__(self, callers: Callers, owners: Owners, limits: Limits) -> None:
        self._callers = callers
        self._owners = owners
        self._limits = limits
        self._quotas = Quotas()

    async def admit(self, routed: RoutedPath, scope: Scope, headers: Headers) -> Admitted:
        """The request as it may go on; Unauthorized, Forbidden or Unknown where it may not."""
        query: bytes = scope["query_string"]
        if routed.access is PUBLIC:
            return Admitted(caller=LOCAL, query=query)
        caller = self._callers.of(headers)
        if caller is LOCAL:
            return Admitted(caller=caller, query=query)
        standing = self._take(routed, caller)
        segments = [unquote_to_bytes(each) for each in scope["raw_path"].split(b"/")[1:]]
        access = _access_of(routed, segments, caller)
        _check_scope(access, caller)
        admitted = Admitted(
            caller=caller,
            query=query,
            standing=standing,
            restricted=_only_as_customer(access, caller),
        )
        if routed.template == LINES_PATH:
            admitted.check_body = _LineCheck(caller, partial(self._take, routed, caller))
        elif access.signed:
            admitted.check_body = _SignatureCheck(caller)
        elif admitted.restricted:
            await self._restrict(admitted, access.own, segments, headers)
        return admitted

    def answered(self, admitted: Admitted, status: int) -> None:
        """The service has answered: an order that was placed is known to be the caller's."""
        if admitted.placed is not None and status in (200, 201):
            self._owners.remember(admitted.placed, admitted.caller.subject)

    def _take(self, routed: RoutedPath, caller: Caller, cost: int = 1) -> Standing | None:
        """Count a request; TooMany where the caller has sent too many."""
        name = "queries" if routed.method == "GET" else "commands"
        quota = self._limits.queries if routed.method == "GET" else self._limits.commands
        return self._quotas.take(name, quota, caller.name, routed.template, cost)

    async def _restrict(
        self, admitted: Admitted, own: Own, segments: list[bytes], headers: Headers
    ) -> None:
        """Let a customer through to what is theirs only."""
        customer = admitted.caller.subject
        if own is Own.ORDERS:
            admitted.query = _own_list(admitted.query, customer)
        elif own is Own.CUSTOMER:
            if _id(segments) != customer:
                raise Unknown(NOTHING)
        elif own is Own.ORDER:
            wait = _wait(admitted.query)
            await self._owners.check_order(_id(segments), customer, headers, wait)
        elif own is Own.RETURN:
            wait = _wait(admitted.query)
            await self._owners.check_return(_id(segments), customer, headers, wait)
        elif own is Own.NEW_ORDER:
            admitted.placed = _id(segments)
            admitted.check_body = _PlacingCheck(customer)
        elif own is Own.CHECKOUT:
            admitted.check_body = _PlacingCheck(customer)
        elif own is Own.NEW_RETURN:
            admitted.check_body = _ReturningCheck(self._owners, customer, headers)


class _PlacingCheck:
    def __init__(self, customer: str) -> None:
        self._customer = customer

    async def __call__(self, body: bytes) -> None:
        if _read(body, _Placing, "/customer_id").customer_id != self._customer:
            raise Forbidden("A customer places orders for themselves only.")


class _ReturningCheck:
    def __init__(self, owners: Owners, customer: str, headers: Headers) -> None:
        self._owners = owners
        self._customer = customer
        self._headers = headers

    async def __call__(self, body: bytes) -> None:
        order_id = _read(body, _Returning, "/order_id").order_id
        check_id(order_id, "order_id")
        await self._owners.check_order(order_id, self._customer, self._headers)


class _SignatureCheck:
    """What a person decides is recorded under their own name."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def __call__(self, body: bytes) -> None:
        _check_signature(body, self._caller)


class _LineCheck:
    """Each line is a command like any other. One that is not allowed stops them all."""

    def __init__(self, caller: Caller, take: Callable[[int], Standing | None]) -> None:
        self._caller = caller
        self._take = take

    async def __call__(self, body: bytes) -> None:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > 1:
            self._take(len(lines) - 1)  # the first was counted with the request
        if SERVICE in self._caller.scopes:
            return
        for line in lines:
            self._check(line)

    def _check(self, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # What cannot be read here is not let through: elsewhere it might be read after all.
            raise Malformed("Each line is a JSON object with a command.") from None
        access = _access_to(line.command, self._caller)
        _check_scope(access, self._caller)
        if _only_as_customer(access, self._caller):
            raise Forbidden("A customer sends commands one by one.")
        if access.signed:
            _check_signature(bytes(line.data), self._caller)


def _access_of(routed: RoutedPath, segments: list[bytes], caller: Caller) -> Access:
    if not routed.template.startswith("/{"):
        return routed.access
    return _access_to(b"/".join((segments[0], segments[2])).decode("utf-8", "replace"), caller)


def _access_to(command: str, caller: Caller) -> Access:
    access = COMMANDS.get(command)
    if access is not None:
        return access
    if SERVICE in caller.scopes:
        return SERVICES  # the service says itself where there is no such command
    raise Unknown("There is no such command; /openapi.json lists them.")


def _check_scope(access: Access, caller: Caller) -> None:
    if not access.scopes & caller.scopes:
        needed = ", ".join(sorted(access.scopes))
        raise Forbidden(f"This needs one of these scopes: {needed}.")


def _only_as_customer(access: Access, caller: Caller) -> bool:
    return access.scopes & caller.scopes == {CUSTOMER}


def _check_signature(body: bytes, caller: Caller) -> None:
    if SERVICE in caller.scopes:
        return
    if _read(body, _Deciding, "/operator").operator != caller.subject:
        raise Forbidden("`operator` must be the name that the token is made out to.")


def _id(segments: list[bytes]) -> str:
    named = segments[1].decode("utf-8", "replace")
    check_id(named, "id")
    return named


def _read(body: bytes, form: type[Read], pointer: str) -> Read:
    """The one field that matters here; the service reads all of them, and strictly."""
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError:
        raise Invalid("This is required, and a text.", pointer) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed("The body is not valid JSON (RFC 8259).") from None


def _own_list(query: bytes, customer: str) -> bytes:
    """The query for the customer's own orders; Unknown where it asks for another's."""
    asked = [value for name, value in _pairs(query) if name == "customer_id"]
    if not asked:
        own = b"customer_id=" + quote(customer, safe="").encode("ascii")
        return query + b"&" + own if query else own
    if asked != [customer]:
        raise Unknown(NOTHING)
    return query


def _wait(query: bytes) -> bytes:
    """The part of the query that says how long a token is waited for."""
    waits = [value for name, value in _pairs(query) if name == "wait_ms"]
    return b"wait_ms=" + quote(waits[0], safe="").encode("ascii") if waits else b""


def _pairs(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)
