"""Given services behind the gateway, when a request comes in, then it goes on as it came."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from gateway.app import build
from gateway.errors import GatewayTimeout
from gateway.routes import ROUTES, Upstream
from gateway.services import Services
from tests.gateway_world import BACKGROUND, live
from tests.integration.command_server import serving
from tidelog.http.asgi import BODY_BYTES_MAX, Receive, Scope, Send
from tidelog.settings import Settings


@dataclass
class Echo:
    """A service that answers what it was asked, byte by byte."""

    name: str
    asked: list[Scope] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        if scope["path"] != BACKGROUND:
            self.asked.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope["path"]
        if path == "/orders/endless/live":
            await self._stream(receive, send)
            return
        if path == "/orders/slow":
            await asyncio.sleep(1)
        await send(
            {
                "type": "http.response.start",
                "status": 412 if path == "/orders/o-1/cancel-order" else 200,
                "headers": [
                    (b"x-served-by", self.name.encode()),
                    (b"etag", b'"3"'),
                    (b"set-cookie", b"a=1"),
                    (b"set-cookie", b"b=2"),
                    (b"connection", b"x-hop"),
                    (b"x-hop", b"for one hop only"),
                    (b"x-correlation-id", dict(scope["headers"])[b"x-correlation-id"]),
                ],
            }
        )
        for chunk in (body[:5], body[5:]):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, receive: Receive, send: Send) -> None:
        """Events until the caller has left, and then that it has."""
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.create_task(cast("Any", receive()))
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.wait({gone}, timeout=0.02)
        self.left.set()


@dataclass
class Door:
    """The running gateway, and the services behind it."""

    client: httpx2.Client
    commands: Echo
    queries: Echo

    def send(self, method: str, target: str, **options: Any) -> httpx2.Response:
        """A request whose path goes out as it is written here."""
        request = self.client.build_request(method, "/", **options)
        request.extensions["target"] = target.encode()
        return self.client.send(request)


@pytest.fixture
def door() -> Iterator[Door]:
    commands, queries = Echo("commands"), Echo("queries")
    with ExitStack() as stack:
        settings = Settings(
            command_service_url=stack.enter_context(serving(cast("Any", commands))),
            query_service_url=stack.enter_context(serving(cast("Any", queries))),
            gateway_cache_bytes_max=0,  # a service hears of what it is asked here, and no more
        )
        url = stack.enter_context(serving(build(settings, CollectorRegistry())))
        client = stack.enter_context(httpx2.Client(base_url=url, trust_env=False))
        yield Door(client, commands, queries)


def free_url() -> str:
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def problem(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


@pytest.mark.parametrize("routed", ROUTES, ids=lambda routed: " ".join(routed[:2]))
def test_each_route_leads_to_its_service(door: Door, routed: Any) -> None:
    path = routed.template.replace("{context}", "orders").replace("{", "x").replace("}", "")

    answer = door.send(routed.method, path)

    served = {Upstream.COMMANDS: "commands", Upstream.QUERIES: "queries"}
    assert answer.headers["x-served-by"] == served[routed.upstream]


@pytest.mark.parametrize(
    "target",
    [
        "/orders/o%2D1/place%2Dorder?a=b%20c&a=%C3%A9",
        "/orders/a%2Fb/place-order",
        "/orders/../place-order",
        "/orders/%2E%2E/place-order?",
        "/orders/a;b=c/place-order",
    ],
)
def test_the_path_goes_on_byte_by_byte(door: Door, target: str) -> None:
    door.send("POST", target, content=b"{}")

    (scope,) = door.commands.asked
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    assert (scope["raw_path"] + query).decode() == target.rstrip("?")


def test_body_status_and_headers_pass_both_ways(door: Door) -> None:
    body = json.dumps({"reason": "late"}).encode()

    answer = door.send(
        "POST",
        "/orders/o-1/cancel-order",
        content=body,
        headers={
            "If-Match": '"2"',
            "Idempotency-Key": "k-1",
            "X-Correlation-Id": "c-1",
            "Connection": "x-secret-hop",
            "X-Secret-Hop": "1",
            "TE": "trailers",
        },
    )

    assert (answer.status_code, answer.content) == (412, body)
    assert answer.headers["etag"] == '"3"'
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers.get_list("x-correlation-id") == ["c-1"]
    assert "x-hop" not in answer.headers
    (scope,) = door.commands.asked
    given = dict(scope["headers"])
    assert given[b"if-match"] == b'"2"'
    assert given[b"idempotency-key"] == b"k-1"
    assert given[b"x-correlation-id"] == b"c-1"
    assert given[b"content-length"] == b"%d" % len(body)
    assert not {b"x-secret-hop", b"te"} & given.keys()
    assert b"user-agent" in given  # the caller's own, and no header of ours beside it


def test_a_correlation_id_is_made_where_there_is_none(door: Door) -> None:
    answer = door.send("GET", "/orders/o-1")

    (made,) = answer.headers.get_list("x-correlation-id")
    assert dict(door.queries.asked[0]["headers"])[b"x-correlation-id"] == made.encode()


def test_a_body_in_chunks_goes_on_whole(door: Door) -> None:
    chunks = [b"x" * 70_000 for _ in range(10)]

    answer = door.send("POST", "/commands", content=iter(chunks))

    assert answer.content == b"".join(chunks)


def test_a_body_that_comes_too_slowly_is_refused_here(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.BODY_TIMEOUT_MS", 300)
    settings = Settings(command_service_url=free_url(), query_service_url=free_url())
    with serving(build(settings, CollectorRegistry())) as url:
        host, port = url.removeprefix("http://").split(":")
        for framing, first in (
            (b"Content-Length: 400", b"{"),
            (b"Transfer-Encoding: chunked", b"2\r\n{}\r\n"),
        ):
            with socket.create_connection((host, int(port)), timeout=5) as caller:
                head = b"POST /commands HTTP/1.1\r\nHost: g\r\n" + framing + b"\r\n\r\n"
                caller.sendall(head + first)
                with caller.makefile("rb") as answer:
                    whole = answer.read()  # to the end: the connection is closed
                assert whole.startswith(b"HTTP/1.1 408 ")
                assert b"/problems/request-timeout" in whole


def test_a_body_that_is_too_large_is_refused_here(door: Door) -> None:
    declared = door.send("POST", "/commands", content=b"x" * (BODY_BYTES_MAX + 1))
    chunked = door.send("POST", "/commands", content=iter([b"x" * 600_000] * 2))

    assert problem(declared) == (413, "content-too-large")
    assert problem(chunked) == (413, "content-too-large")


def test_what_is_on_no_route_is_unknown_and_another_method_is_not_allowed(door: Door) -> None:
    assert problem(door.send("GET", "/nothing/here/at/all")) == (404, "unknown")
    assert problem(door.send("GET", "/orders//history")) == (404, "unknown")
    refused = door.send("DELETE", "/orders/o-1")
    assert problem(refused) == (405, "method-not-allowed")
    assert refused.headers["allow"] == "GET, HEAD"
    assert problem(door.send("DELETE", "/orders/o-1/history")) == (405, "method-not-allowed")
    assert door.queries.asked == []


def test_only_the_command_service_knows_which_commands_there_are(door: Door) -> None:
    door.send("GET", "/orders/o-1/no-such-thing")
    door.send("PUT", "/orders/o-1/place-order")

    assert [scope["method"] for scope in door.commands.asked] == ["GET", "PUT"]


@pytest.mark.parametrize("target", ["/%6frders/o-1", "/st%6Fck/tea"])
def test_an_escaped_letter_is_the_letter(door: Door, target: str) -> None:
    assert door.send("GET", target).headers["x-served-by"] == "queries"


def test_a_service_that_is_down_is_a_bad_gateway() -> None:
    settings = Settings(command_service_url=free_url(), query_service_url=free_url())
    with (
        serving(build(settings, CollectorRegistry())) as url,
        httpx2.Client(base_url=url, trust_env=False) as client,
    ):
        answer = client.post("/orders/o-1/place-order", content=b"{}")
        ready = client.get("/readyz?verbose")
        alive = client.get("/livez")
        page = client.get("/problems/bad-gateway")

    assert problem(answer) == (502, "bad-gateway")
    assert ready.status_code == 503
    assert [check["ready"] for check in ready.json()["checks"]] == [False, False, False]
    assert alive.status_code == 200
    assert "Idempotency-Key" in page.text


async def test_a_service_that_takes_too_long_is_a_gateway_timeout() -> None:

    queries = Echo("queries")
    with serving(cast("Any", queries)) as url:
        services = Services({Upstream.QUERIES: url}, answer_timeout_s=0.1)
        with pytest.raises(GatewayTimeout):
            await services.ask(b"/orders/slow", [(b"x-correlation-id", b"c-1")])
        await services.close()


def test_the_gateway_has_metrics_of_its_own(door: Door) -> None:
    door.send("GET", "/orders/o-1")

    metrics = door.send("GET", "/metrics").text

    assert (
        'tidelog_http_requests_total{method="GET",route="/orders/{id}",status="200"} 1.0' in metrics
    )


def test_a_stream_comes_through_as_it_is_sent_and_ends_with_its_caller(door: Door) -> None:
    with door.client.stream("GET", "/orders/endless/live") as answer:
        events = answer.iter_raw()
        assert b"data: 1" in next(events) and b"data: 1" in next(events)
        assert not door.queries.left.is_set()

    assert door.queries.left.wait(10), "the service still sends to a caller that has left"
