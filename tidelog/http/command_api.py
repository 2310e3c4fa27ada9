"""Commands over HTTP: `POST /{context}/{id}/{command-in-kebab-case}`.

The routes follow from the aggregates. The way of a command is plain ASGI: one look-up from the
path to its route, one pass over the headers, one read of the body, and the door.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from tidelog.aggregate import Aggregate
from tidelog.canonical import command_hash, command_id
from tidelog.engine.command import CommandDoor, Envelope, Refused
from tidelog.errors import Invalid, TidelogError, Unavailable, Unknown
from tidelog.http import asgi
from tidelog.http.answers import Answer, answer_of
from tidelog.http.asgi import Body, HeaderList, Receive, Scope, Send
from tidelog.http.body import CommandReader
from tidelog.http.errors import (
    ContentTooLarge,
    InternalError,
    MethodNotAllowed,
    PreconditionRequired,
    RequestTimeout,
)
from tidelog.http.headers import (
    NO_TRACE,
    by_name,
    check_media_type,
    content_length,
    continued_trace,
    correlation_id,
    decoded_segments,
    expected_version,
    idempotency_key,
    wants_async,
)
from tidelog.http.patience import Patience
from tidelog.http.ports import CallerOf, OperationStore, named_caller
from tidelog.http.problems import (
    MEDIA_TYPE,
    problem_headers,
    problem_of,
)
from tidelog.ids import uuid7
from tidelog.logging import current_correlation_id, get_logger
from tidelog.message import ID_PATTERN, Command, Context

OPERATION_LIFE_HOURS: Final = 24

_ID = re.compile(ID_PATTERN)
_JSON = b"application/json"
_log = get_logger("tidelog.http")


@dataclass(frozen=True, kw_only=True)
class CommandRoute:
    """Where commands of one type come in, and how they are read."""

    context: Context
    aggregate: Aggregate[Any, Any, Any]
    command_type: type[Command]
    full_name: str
    template: str
    reader: CommandReader


def command_routes(
    aggregates: Iterable[Aggregate[Any, Any, Any]],
) -> list[CommandRoute]:
    """One route for each command of each aggregate."""
    return [
        _route(aggregate, command_type)
        for aggregate in aggregates
        for command_type in aggregate.context.command_types
    ]


def _route(aggregate: Aggregate[Any, Any, Any], command_type: type[Command]) -> CommandRoute:
    context = aggregate.context
    return CommandRoute(
        context=context,
        aggregate=aggregate,
        command_type=command_type,
        full_name=context.full_name(command_type),
        template=f"/{context.name}/{{{context.key}}}/{kebab(command_type.__name__)}",
        reader=CommandReader(command_type, context.key),
    )


def kebab(name: str) -> str:
    """PlaceOrder → place-order."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


class Exchange:
    """What is known of a request so far; a refusal answers with as much of it as there is."""

    __slots__ = ("correlation_id", "key_header", "path", "trace")

    def __init__(self, path: str) -> None:
        self.path = path
        self.trace = NO_TRACE
        self.correlation_id: str | None = None
        self.key_header: bytes | None = None

    def headers(self, media_type: bytes, length: int) -> HeaderList:
        """The headers that every answer has."""
        headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % length),
            (b"x-correlation-id", (self.correlation_id or uuid7()).encode("ascii")),
        ]
        if self.key_header is not None:
            headers.append((b"idempotency-key", self.key_header))
        return headers


class CommandApi:
    """The command side behind HTTP. It translates; the door decides."""

    def __init__(
        self,
        aggregates: Iterable[Aggregate[Any, Any, Any]],
        door: CommandDoor,
        *,
        command_timeout_ms: int,
        operations: OperationStore | None = None,
        caller_of: CallerOf = named_caller,
        body_timeout_ms: int = asgi.BODY_TIMEOUT_MS,
        if_match_required: bool = False,
    ) -> None:
        self.routes: Final = command_routes(aggregates)
        self.body_patience: Final = Patience(body_timeout_ms / 1000)
        self._command_patience = Patience(command_timeout_ms / 1000)
        self._door = door
        self._operations = operations
        self._caller_of = caller_of
        self._if_match_required = if_match_required
        self._by_path: dict[tuple[str, str], CommandRoute] = {}
        for route in self.routes:
            _, context, _, command = route.template.split("/")
            assert (context, command) not in self._by_path, "one route per path"
            self._by_path[context, command] = route

    def find(self, scope: Scope) -> tuple[CommandRoute, str] | None:
        """The route of the request and the aggregate id in its path, not checked yet."""
        raw_path: bytes = scope.get("raw_path") or b""
        parts = decoded_segments(raw_path) if b"%" in raw_path else scope["path"].split("/", 4)
        if len(parts) != 4:
            return None
        route = self._by_path.get((parts[1], parts[3]))
        return None if route is None else (route, parts[2])

    def named(self, name: str) -> CommandRoute:
        """The route of `orders/place-order`; Unknown if there is none."""
        context, _, command = name.partition("/")
        route = self._by_path.get((context, command))
        if route is None:
            raise Unknown("There is no such command; /openapi.json lists them.")
        return route

    async def serve(
        self, route: CommandRoute, id: str, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answer one command; the status."""
        exchange = Exchange(scope["path"])
        body = Body(receive)
        try:
            return await self._serve(route, id, exchange, scope, body, send)
        except TidelogError as error:
            return await refuse(error, exchange, body, send)

    async def _serve(
        self,
        route: CommandRoute,
        id: str,
        exchange: Exchange,
        scope: Scope,
        body: Body,
        send: Send,
    ) -> int:
        headers = read_headers(scope, exchange)
        if scope["method"] != "POST":
            raise MethodNotAllowed("POST")
        check_id(id, route.context.key)
        key, version = self._conditions(headers, exchange)
        caller = self.caller(route, headers)
        check_media_type(headers, _JSON)
        raw = await body.read(self.body_patience, content_length(headers))
        command = route.reader.read(raw, id)
        envelope = self.envelope(route, command, caller, id, key, version, exchange)
        if wants_async(headers.get(b"prefer")) and self._operations is not None:
            start = partial(self._operations.start, caller=caller)
            return await self._enqueue(start, route, envelope, exchange, send)
        answer = await self.submit(route, envelope)
        await _send_answer(answer, exchange, send)
        return answer.status

    def _conditions(
        self, headers: dict[bytes, bytes], exchange: Exchange
    ) -> tuple[str, int | None]:
        """The idempotency key, made if there is none, and the expected version."""
        given = headers.get(b"idempotency-key")
        if given is None:
            key = uuid7()
            exchange.key_header = key.encode("ascii")
        else:
            key = idempotency_key(given)
            exchange.key_header = given
        if_match = headers.get(b"if-match")
        if if_match is not None:
            return key, expected_version(if_match)
        self.check_precondition(None)
        return key, None

    def check_precondition(self, version: int | None) -> None:
        """Raise PreconditionRequired where the setting asks for If-Match and none came."""
        if version is None and self._if_match_required:
            raise PreconditionRequired("Send If-Match with the version that you read.")

    def caller(self, route: CommandRoute, headers: dict[bytes, bytes]) -> str:
        """Who sends this command."""
        return self._caller_of(headers, route.context, route.command_type)

    def envelope(
        self,
        route: CommandRoute,
        command: Command,
        caller: str,
        id: str,
        key: str,
        version: int | None,
        exchange: Exchange,
    ) -> Envelope:
        """The command with all that travels beside it. Its id is the default correlation id."""
        identity = command_id(caller, route.context.name, id, key)
        if exchange.correlation_id is None:
            exchange.correlation_id = identity
        return Envelope(
            command_id=identity,
            command_hash=command_hash(route.full_name, command),
            key=id,
            command=command,
            correlation_id=exchange.correlation_id,
            traceparent=exchange.trace.traceparent,
            expected_version=version,
        )

    async def submit(self, route: CommandRoute, envelope: Envelope) -> Answer:
        """What became of the command; a refusal is raised."""
        context = route.context.name
        try:
            with self._command_patience.wait():
                outcome = await self._door.submit(context, envelope)
        except TimeoutError:
            raise Unavailable(
                "There was no answer in time. The command may still be carried out: the same "
                "request with the same Idempotency-Key tells."
            ) from None
        if isinstance(outcome, Refused):
            raise outcome.error
        partition = self._door.partition_of(context, envelope.key)
        return answer_of(outcome, context, partition, envelope.key)

    async def _enqueue(
        self,
        start: Callable[[str, str, str], Awaitable[None]],
        route: CommandRoute,
        envelope: Envelope,
        exchange: Exchange,
        send: Send,
    ) -> int:
        """Answer 202 once the command is durable in its topic."""
        operation = envelope.command_id
        try:
            with self._command_patience.wait():
                await start(operation, route.context.name, envelope.command_hash)
                await self._door.enqueue(route.context.name, envelope)
        except TimeoutError:
            raise Unavailable(
                "The command could not be queued in time. Send it again with the same "
                "Idempotency-Key."
            ) from None
        body = msgspec.json.encode({"id": operation, "status": "running"})
        headers = exchange.headers(_JSON, len(body))
        headers.append((b"location", f"/operations/{operation}".encode("ascii")))
        headers.append((b"preference-applied", b"respond-async"))
        await asgi.answer(send, 202, headers, body)
        return 202


def check_id(id: str, key: str) -> None:
    """Raise Invalid where the id in the path is none; `key` names its field."""
    if not _ID.match(id):
        raise Invalid(
            "Expected an id: 1 to 128 characters of A-Z a-z 0-9 . _ ~ - and not . or ..",
            f"/{key}",
        )


def read_headers(scope: Scope, exchange: Exchange) -> dict[bytes, bytes]:
    """The headers by name; the exchange takes its correlation id and trace from them."""
    headers = dict(scope["headers"])
    given = headers.get(b"x-correlation-id")
    if given is not None:
        exchange.correlation_id = correlation_id(given)
        current_correlation_id.set(exchange.correlation_id)
    exchange.trace = continued_trace(headers.get(b"traceparent"))
    if len(headers) != len(scope["headers"]):
        by_name(scope["headers"])
    return headers


async def _send_answer(answer: Answer, exchange: Exchange, send: Send) -> None:
    headers = exchange.headers(_JSON, len(answer.body))
    headers.append((b"etag", b'"%d"' % answer.version))
    if answer.token is not None:
        headers.append((b"consistency-token", answer.token.encode("ascii")))
    await asgi.answer(send, answer.status, headers, answer.body)


async def refuse(error: TidelogError, exchange: Exchange, body: Body, send: Send) -> int:
    """Answer with a problem; the status. The rest of a body too large or slow is discarded."""
    shown = error if error.status != 500 else InternalError()
    if error.status == 500:
        _log.error("a request failed", trace_id=exchange.trace.trace_id, exc_info=error)
    problem = problem_of(shown, exchange.path, exchange.trace.trace_id)
    content = msgspec.json.encode(problem)
    headers = exchange.headers(MEDIA_TYPE, len(content)) + problem_headers(shown)
    if isinstance(error, ContentTooLarge | RequestTimeout):
        await asgi.answer_and_close(body, send, shown.status, headers, content)
    else:
        await asgi.answer(send, shown.status, headers, content)
    return shown.status
