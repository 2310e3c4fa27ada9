"""`POST /commands`: many commands in one request, a JSON object per line, a line of answer each.

Lines are independent: each is decided, refused or malformed alone. The lines of one aggregate are
carried out in their order, those of different aggregates at the same time, and the answers come in
the order of the lines. A body of declared length is read whole first, so that a body over the
bounds does nothing. A chunked body is worked on while it arrives; where it breaks a bound the last
line of the answer says so, and the lines before it stand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from tidelog.errors import Invalid, Malformed, TidelogError
from tidelog.http import asgi
from tidelog.http.asgi import Body, Receive, Scope, Send
from tidelog.http.body import invalid, read_json
from tidelog.http.command_api import (
    CommandApi,
    CommandRoute,
    Exchange,
    check_id,
    read_headers,
    refuse,
)
from tidelog.http.errors import (
    ContentTooLarge,
    InternalError,
    MethodNotAllowed,
    RequestTimeout,
)
from tidelog.http.headers import (
    check_media_type,
    content_length,
    expected_version,
    idempotency_key,
)
from tidelog.http.problems import problem_of
from tidelog.ids import uuid7
from tidelog.logging import get_logger

PATH: Final = "/commands"
MEDIA_TYPE: Final = b"application/x-ndjson"
LINES_MAX: Final = 1_000
LINES_IN_FLIGHT_MAX: Final = 256

_BLANK = b" \t\r"
_KEY = re.compile(r"[\x20-\x7e]{1,128}")
_TOO_MANY = f"The body may have at most {LINES_MAX} lines."
_log = get_logger("tidelog.http")


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""A line of the body. `if_match` is a version (3), or as in the header ("*", "\"3\"")."""

    command: str
    id: str
    data: dict[str, Any]
    idempotency_key: str | None = None
    if_match: int | str | None = None


class NdjsonApi:
    """The door for many commands at once; each goes the way of a single one."""

    def __init__(self, commands: CommandApi) -> None:
        self._commands = commands

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer the request; the status."""
        exchange = Exchange(scope["path"])
        body = Body(receive)
        try:
            headers = read_headers(scope, exchange)
            if scope["method"] != "POST":
                raise MethodNotAllowed("POST")
            check_media_type(headers, MEDIA_TYPE)
            lines = await self._lines(headers, body)
        except TidelogError as error:
            return await refuse(error, exchange, body, send)
        batch = _Batch(self._commands, headers, exchange, body)
        return await batch.serve(lines, send)

    async def _lines(self, headers: dict[bytes, bytes], body: Body) -> AsyncIterator[bytes]:
        """The lines of the body: read already where the length is declared, else as they come."""
        declared = content_length(headers)
        if declared is None:
            return _split(body.chunks())
        content = await body.read(self._commands.body_patience, declared)
        lines = [line for line in content.split(b"\n") if line.strip(_BLANK)]
        if len(lines) > LINES_MAX:
            raise ContentTooLarge(_TOO_MANY)
        if not lines:
            raise Malformed("The body holds no command. Send one JSON object per line.")
        return _each(lines)


async def _each(lines: list[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


async def _split(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a body that arrives in chunks; ContentTooLarge once a bound is passed."""
    rest, size, count = b"", 0, 0
    async for chunk in chunks:
        size += len(chunk)
        if size > asgi.BODY_BYTES_MAX:
            raise ContentTooLarge(asgi.TOO_LARGE)
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip(_BLANK):
                count += 1
                if count > LINES_MAX:
                    raise ContentTooLarge(_TOO_MANY)
                yield line
    if rest.strip(_BLANK):
        if count == LINES_MAX:
            raise ContentTooLarge(_TOO_MANY)
        yield rest


class _Batch:
    """One request: a reader that starts the lines, and a writer that answers them in order."""

    def __init__(
        self,
        commands: CommandApi,
        headers: dict[bytes, bytes],
        exchange: Exchange,
        body: Body,
    ) -> None:
        self._commands = commands
        self._headers = headers
        self._exchange = exchange
        self._body = body
        self._fault: TidelogError | None = None
        self._answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(
            LINES_IN_FLIGHT_MAX
        )
        self._last: dict[tuple[str, str], asyncio.Task[bytes]] = {}

    async def serve(self, lines: AsyncIterator[bytes], send: Send) -> int:
        """Answer every line; the status."""
        reader = asyncio.create_task(self._read(lines))
        try:
            first = await self._answers.get()
            if first is None:
                return await self._refuse_whole(send)
            await self._write(first, send)
            return 200
        finally:
            reader.cancel()
            self._cancel_waiting()

    async def _refuse_whole(self, send: Send) -> int:
        """No line came: the request is refused as a whole."""
        error = self._fault or Malformed(
            "The body holds no command. Send one JSON object per line."
        )
        return await refuse(error, self._exchange, self._body, send)

    async def _write(self, first: asyncio.Task[bytes], send: Send) -> None:
        headers = [
            (b"content-type", MEDIA_TYPE),
            (b"x-correlation-id", (self._exchange.correlation_id or uuid7()).encode()),
        ]
        if b"content-length" not in self._headers:
            headers.append((b"connection", b"close"))  # Its body may never end.
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        following: asyncio.Task[bytes] | None = first
        while following is not None:
            body = await following
            await send({"type": "http.response.body", "body": body, "more_body": True})
            following = await self._answers.get()
        if self._fault is not None:
            last = self._problem(self._fault)
            await send({"type": "http.response.body", "body": last, "more_body": True})
            await self._body.discard()
        await send({"type": "http.response.body", "body": b""})

    def _cancel_waiting(self) -> None:
        while not self._answers.empty():
            task = self._answers.get_nowait()
            if task is not None:
                task.cancel()

    async def _read(self, lines: AsyncIterator[bytes]) -> None:
        """Start each line as it comes; None ends them."""
        number = 0
        try:
            while True:
                with self._commands.body_patience.wait():
                    line = await anext(lines, None)
                if line is None:
                    break
                number += 1
                await self._answers.put(self._start(line, number))
        except TimeoutError:
            self._fault = RequestTimeout(asgi.TOO_SLOW)
        except TidelogError as error:
            self._fault = error
        except asgi.Disconnected:
            _log.info("a client left before its lines were whole", lines=number)
        await self._answers.put(None)

    def _start(self, raw: bytes, number: int) -> asyncio.Task[bytes]:
        try:
            line = _read_line(raw)
            route = self._commands.named(line.command)
        except TidelogError as error:
            return asyncio.create_task(_ready(self._problem(error)))
        place = (route.context.name, line.id)
        task = asyncio.create_task(self._carry_out(line, route, number, self._last.get(place)))
        self._last[place] = task
        return task

    async def _carry_out(
        self,
        line: Line,
        route: CommandRoute,
        number: int,
        before: asyncio.Task[bytes] | None,
    ) -> bytes:
        if before is not None:
            await asyncio.wait({before})
        try:
            return await self._submit(line, route, number)
        except TidelogError as error:
            return self._problem(error)
        except Exception as error:
            _log.error("a line failed", exc_info=error)
            return self._problem(InternalError())

    async def _submit(self, line: Line, route: CommandRoute, number: int) -> bytes:
        check_id(line.id, "id")
        version = _version(line.if_match)
        self._commands.check_precondition(version)
        caller = self._commands.caller(route, self._headers)
        command = route.reader.build(line.data, line.id, at="/data")
        exchange = Exchange(self._exchange.path)
        exchange.trace = self._exchange.trace
        exchange.correlation_id = self._exchange.correlation_id
        envelope = self._commands.envelope(
            route, command, caller, line.id, self._key(line, number), version, exchange
        )
        answer = await self._commands.submit(route, envelope)
        return b'{"status":%d,"result":%b}\n' % (answer.status, answer.body)

    def _key(self, line: Line, number: int) -> str:
        """The line's own key; else one from the request's key and the line's number; else new."""
        if line.idempotency_key is not None:
            if not _KEY.fullmatch(line.idempotency_key):
                raise Invalid("Expected 1 to 128 printable ASCII characters.", "/idempotency_key")
            return line.idempotency_key
        given = self._headers.get(b"idempotency-key")
        return uuid7() if given is None else f"{idempotency_key(given)}\t{number}"

    def _problem(self, error: TidelogError) -> bytes:
        shown = error if error.status != 500 else InternalError()
        if error.status == 500:
            _log.error("a line failed", exc_info=error)
        problem = problem_of(shown, self._exchange.path, self._exchange.trace.trace_id)
        body = msgspec.json.encode(problem)
        return b'{"status":%d,"problem":%b}\n' % (shown.status, body)


async def _ready(body: bytes) -> bytes:
    return body


def _read_line(raw: bytes) -> Line:
    try:
        return msgspec.convert(read_json(raw.strip(_BLANK)), Line)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def _version(given: int | str | None) -> int | None:
    if given is None:
        return None
    text = f'"{given}"' if isinstance(given, int) else given
    try:
        return expected_version(text.encode("utf-8"))
    except Malformed as error:
        raise Invalid(error.detail, "/if_match") from None
