"""The command API as a client meets it: answers, headers, keys, versions, operations."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.integration.command_server import (
    CommandServer,
    command_server,
    order_body,
    read_until_silent,
)
from tidelog.engine.command import Envelope, Outcome
from tidelog.errors import CommandFault, NotOwner, Overloaded

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def server() -> Iterator[CommandServer]:
    with command_server() as running:
        yield running


def problem(answer: httpx2.Response, status: int, name: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["type"] == f"/problems/{name}"
    assert found["status"] == status
    assert {"type", "title", "status", "detail", "instance", "trace_id"} <= set(found)
    return found


def test_a_command_with_events_is_answered_201_with_all_headers(server: CommandServer) -> None:
    answer = server.place("a-1", Idempotency_Key="key-1", X_Correlation_Id="visit-1")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    token = body["token"]
    assert re.fullmatch(r"orders:\d:\d+", token)
    assert body == {
        "id": "a-1",
        "version": 1,
        "events": [{"type": "OrderPlaced", "position": token}],
        "token": token,
        "replayed": False,
    }
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["consistency-token"] == token
    assert answer.headers["x-correlation-id"] == "visit-1"
    assert answer.headers["idempotency-key"] == "key-1"


def test_a_replay_has_the_first_answer_and_says_so(server: CommandServer) -> None:
    first = server.place("a-2", Idempotency_Key="key-2")
    count = server.event_count()
    again = server.place("a-2", Idempotency_Key='"key-2"', If_Match='"0"')
    assert again.status_code == 201
    assert again.json() == {**first.json(), "replayed": True}
    assert again.headers["etag"] == first.headers["etag"]
    assert server.event_count() == count


def test_the_same_content_under_another_key_is_answered_200_without_events(
    server: CommandServer,
) -> None:
    token = server.place("a-3").json()["token"]
    again = server.place("a-3")
    assert again.status_code == 200
    expected = {"id": "a-3", "version": 1, "events": [], "token": token, "replayed": False}
    assert again.json() == expected
    assert again.headers["etag"] == '"1"'


def test_a_missing_key_is_made_and_answered_and_works_afterwards(server: CommandServer) -> None:
    first = server.post("/inventory/made/receive-stock", {"quantity": 1})
    made = first.headers["idempotency-key"]
    assert UUID.fullmatch(made)
    again = server.post("/inventory/made/receive-stock", {"quantity": 1}, Idempotency_Key=made)
    assert again.json() == {**first.json(), "replayed": True}


def test_a_broken_rule_is_a_problem_named_after_the_rule(server: CommandServer) -> None:
    count = server.event_count()
    answer = server.post("/orders/never/cancel-order", {"reason": "x"}, Idempotency_Key="k")
    found = problem(answer, 409, "order-never-placed")
    assert found["title"] == "Order never placed"
    assert answer.headers["idempotency-key"] == "k"
    assert UUID.fullmatch(answer.headers["x-correlation-id"])
    assert server.event_count() == count
    page = server.client.get(found["type"])
    assert page.status_code == 200
    assert found["detail"] in page.text


def test_a_command_without_fields_wants_an_empty_object(server: CommandServer) -> None:
    server.place("a-4")
    problem(server.post("/orders/a-4/mark-order-reserved", b""), 400, "malformed")
    assert server.post("/orders/a-4/mark-order-reserved", {}).status_code == 201


def test_if_match_holds_a_version_zero_or_a_star(server: CommandServer) -> None:
    problem(server.place("a-5", If_Match="*"), 412, "stale-version")
    assert server.place("a-5", If_Match='"0"').status_code == 201
    found = problem(
        server.post("/orders/a-5/cancel-order", {"reason": "x"}, If_Match='"7"'),
        412,
        "stale-version",
    )
    assert found["actual_version"] == 1
    for version in ('"1"', "*"):
        answer = server.post("/orders/a-5/cancel-order", {"reason": "x"}, If_Match=version)
        assert answer.status_code in (200, 201)
        assert answer.json()["version"] == 2 or version == "*"


def test_the_callers_trace_goes_on_and_a_bad_one_does_not(server: CommandServer) -> None:
    given = f"00-{TRACE}-b7ad6b7169203331-01"
    known = server.post("/orders/no/cancel-order", {"reason": "x"}, traceparent=given)
    assert known.json()["trace_id"] == TRACE
    for bad in (f"00-{'0' * 32}-b7ad6b7169203331-01", "ff" + given[2:], given + "-x", "junk"):
        answer = server.post("/orders/no/cancel-order", {"reason": "x"}, traceparent=bad)
        found = answer.json()["trace_id"]
        assert re.fullmatch(r"[0-9a-f]{32}", found)
        assert found not in (TRACE, "0" * 32)


def test_correlation_and_trace_reach_the_envelope(server: CommandServer) -> None:
    given = f"00-{TRACE}-b7ad6b7169203331-01"
    server.place("a-6", X_Correlation_Id="visit-6", traceparent=given, Prefer="respond-async")
    envelope = next(e for _, e in server.door.enqueued if e.key == "a-6")
    assert envelope.correlation_id == "visit-6"
    version, trace, span, flags = envelope.traceparent.split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != "b7ad6b7169203331"


def test_respond_async_is_answered_202_and_can_be_asked_about(server: CommandServer) -> None:
    answer = server.place("a-7", Prefer="wait=5, respond-async", Idempotency_Key="k7")
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    location = answer.headers["location"]
    assert location == f"/operations/{answer.json()['id']}"
    found = server.client.get(location)
    assert found.status_code == 200
    assert found.json() == {"id": answer.json()["id"], "status": "running"}
    again = server.place("a-7", Prefer="respond-async", Idempotency_Key="k7")
    assert again.headers["location"] == location
    other = server.place(
        "a-7", order_body(currency="CHF"), Prefer="respond-async", Idempotency_Key="k7"
    )
    problem(other, 422, "idempotency-key-reused")
    problem(server.client.get("/operations/unknown"), 404, "unknown")


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere/x/place-order",
        "/orders/x/no-such-command",
        "/orders/x/place-order/",
        "/orders/x/place_order",
        "/orders/x",
        "/",
        "/orders/x/y/place-order",
        "//orders/x/place-order",
    ],
)
def test_what_is_not_there_is_404(server: CommandServer, path: str) -> None:
    problem(server.post(path, order_body()), 404, "unknown")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_command_path_takes_post_only(server: CommandServer, method: str) -> None:
    answer = server.client.request(method, "/orders/x/place-order")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    problem(server.client.request("POST", "/livez"), 405, "method-not-allowed")


def test_openapi_lists_every_command_and_docs_show_it(server: CommandServer) -> None:
    document = server.client.get("/openapi.json").json()
    assert "/orders/{order_id}/place-order" in document["paths"]
    assert "/inventory/{sku}/receive-stock" in document["paths"]
    assert "/commands" in document["paths"]
    page = server.client.get("/docs")
    assert "/orders/{order_id}/place-order" in page.text
    assert page.headers["content-type"].startswith("text/html")


def test_health_and_metrics_answer(server: CommandServer) -> None:
    server.place("a-8")
    assert server.client.get("/livez").json() == {"status": "alive"}
    assert server.client.get("/readyz").status_code == 200
    assert server.client.get("/readyz?verbose").json() == {"status": "ready", "checks": []}
    text = server.client.get("/metrics").text
    template = 'route="/orders/{order_id}/place-order"'
    assert f'tidelog_http_requests_total{{method="POST",{template},status="201"}}' in text
    assert f'tidelog_http_request_seconds_count{{method="POST",{template}}}' in text
    assert "tidelog_http_requests_in_flight 1.0" in text


class TroubledDoor:
    """A door that does what it is told: an exception, or no answer at all."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.delay_s = 0.0

    async def submit(self, context: str, envelope: Envelope) -> Outcome:
        if self.trouble is not None:
            raise self.trouble
        await asyncio.sleep(self.delay_s)
        raise AssertionError("not reached")

    def partition_of(self, context: str, key: str) -> int:
        return 0

    async def enqueue(self, context: str, envelope: Envelope) -> None:
        await self.submit(context, envelope)


@pytest.mark.parametrize(
    ("trouble", "name"), [(Overloaded("full"), "overloaded"), (NotOwner("moved"), "not-owner")]
)
def test_a_door_that_cannot_answer_is_503_with_retry_after(trouble: Exception, name: str) -> None:
    door = TroubledDoor()
    door.trouble = trouble
    with command_server(door=door) as server:
        answer = server.place("x", Idempotency_Key="mine")
        problem(answer, 503, name)
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["idempotency-key"] == "mine"


@pytest.mark.parametrize("trouble", [RuntimeError("EVIL inside"), CommandFault("EVIL inside")])
def test_a_fault_of_ours_is_500_and_tells_nothing(trouble: Exception) -> None:
    door = TroubledDoor()
    door.trouble = trouble
    with command_server(door=door) as server:
        answer = server.place("x", Idempotency_Key="mine")
        problem(answer, 500, "internal-error")
        assert "EVIL" not in answer.text
        assert server.client.get("/problems/internal-error").status_code == 200


def test_a_command_without_answer_in_time_is_503_and_the_key_tells_later() -> None:
    door = TroubledDoor()
    door.delay_s = 30
    with command_server(door=door, command_timeout_ms=200) as server:
        began = time.monotonic()
        found = problem(server.place("x"), 503, "unavailable")
        assert time.monotonic() - began < 2
        assert "Idempotency-Key" in found["detail"]
        problem(server.place("x", Prefer="respond-async"), 503, "unavailable")


def test_lines_are_answered_in_order_and_fail_alone(server: CommandServer) -> None:
    lines = [
        {"command": "orders/place-order", "id": "n-1", "data": order_body()},
        {"command": "orders/cancel-order", "id": "n-1", "data": {"reason": "x"}},
        {"command": "orders/no-such", "id": "n-1", "data": {}},
        {"command": "orders/cancel-order", "id": "n-1", "data": {"reason": 7}},
        {"command": "orders/cancel-order", "id": "n-0", "data": {"reason": "x"}},
        {"command": "orders/place-order", "id": "a b", "data": order_body()},
        {"command": "orders/place-order", "id": "n-2", "data": order_body(), "if_match": 3},
        {"command": "orders/place-order", "id": "n-2", "data": order_body(), "x": 1},
    ]
    text = "\r\n\n".join(json.dumps(line) for line in lines)
    body = f'\n{text}\n{{"command":1,"command":2}}\n{{broken\n'.encode()
    answer = server.client.post(
        "/commands", content=body, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in answer.text.splitlines()]
    statuses = [line["status"] for line in found]
    assert statuses == [201, 201, 404, 422, 409, 422, 412, 422, 400, 400]
    assert found[0]["result"]["events"][0]["type"] == "OrderPlaced"
    assert found[1]["result"]["version"] == 2
    assert found[3]["problem"]["errors"][0]["pointer"] == "/data/reason"
    assert found[4]["problem"]["type"] == "/problems/order-never-placed"
    assert found[5]["problem"]["errors"][0]["pointer"] == "/id"
    assert found[6]["problem"]["actual_version"] == 0
    assert found[7]["problem"]["errors"][0]["pointer"] == "/x"


def ndjson(count: int, prefix: str) -> bytes:
    line = '{{"command":"inventory/receive-stock","id":"{}","data":{{"quantity":1}}}}\n'
    return "".join(line.format(f"{prefix}-{n % 7}") for n in range(count)).encode()


def post_lines(server: CommandServer, content: Any, **headers: str) -> httpx2.Response:
    named = {"Content-Type": "application/x-ndjson"}
    named.update({name.replace("_", "-"): value for name, value in headers.items()})
    return server.client.post("/commands", content=content, headers=named)


def test_a_thousand_lines_pass_and_one_more_does_nothing(server: CommandServer) -> None:
    count = server.event_count()
    problem(post_lines(server, ndjson(1_001, "many")), 413, "content-too-large")
    assert server.event_count() == count
    answer = post_lines(server, ndjson(1_000, "many"))
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["status"] for line in found] == [201] * 1_000
    for name in range(7):
        own = [line for line in found if line["result"]["id"] == f"many-{name}"]
        assert [line["result"]["version"] for line in own] == list(range(1, len(own) + 1))


def test_lines_under_the_requests_key_are_replayed(server: CommandServer) -> None:
    first = post_lines(server, ndjson(20, "keyed"), Idempotency_Key="batch-1")
    again = post_lines(server, ndjson(20, "keyed"), Idempotency_Key="batch-1")
    replayed = [json.loads(line)["result"] for line in again.text.splitlines()]
    assert all(result.pop("replayed") for result in replayed)
    for line, result in zip(first.text.splitlines(), replayed, strict=True):
        assert json.loads(line)["result"] == {**result, "replayed": False}


def test_lines_are_streamed_both_ways(server: CommandServer) -> None:
    port = int(server.url.rsplit(":", 1)[1])

    async def talk() -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /commands HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        answers = []
        for _ in range(3):
            line = ndjson(1, "stream")
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            while not (answer := await asyncio.wait_for(reader.readline(), 5)).startswith(b"{"):
                pass
            answers.append(answer)
        writer.write(b"0\r\n\r\n")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answers

    assert [json.loads(line)["status"] for line in asyncio.run(talk())] == [201] * 3


def test_a_stream_over_the_bound_ends_with_a_line_that_says_so(server: CommandServer) -> None:
    answer = post_lines(server, iter([ndjson(600, "over"), ndjson(600, "over")]))
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["status"] for line in found] == [201] * 1_000 + [413]
    assert found[-1]["problem"]["type"] == "/problems/content-too-large"


def test_lines_of_another_kind_are_refused_as_a_whole(server: CommandServer) -> None:
    wrong = server.post("/commands", ndjson(1, "w"))
    problem(wrong, 415, "unsupported-media-type")
    problem(post_lines(server, b"\n\r\n"), 400, "malformed")
    problem(post_lines(server, iter([b"\n"])), 400, "malformed")
    problem(post_lines(server, b" " * (1024 * 1024 + 1)), 413, "content-too-large")
    problem(server.client.get("/commands"), 405, "method-not-allowed")


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("cut", [0, 20])
def test_an_offered_upgrade_is_declined_and_the_command_carried_out(
    server: CommandServer, framing: str, cut: int
) -> None:
    order_id = f"upgrade-{framing}-{cut}"
    body = json.dumps(order_body()).encode()
    length = b"content-length: %d" % len(body)
    if framing == "chunked":
        length = b"transfer-encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = (
        b"POST /orders/%b/place-order HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n%b"
    ) % (order_id.encode(), length + b"\r\n\r\n")
    smuggled = b"POST /orders/smuggled/place-order HTTP/1.1\r\n\r\n"
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(head + body[:cut])
        time.sleep(0.05)
        connection.sendall(body[cut:] + smuggled)
        answer = read_until_silent(connection, 5)
    assert answer.startswith(b"HTTP/1.1 201 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer
    assert server.raw(
        b"GET /livez HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    ).startswith(b"HTTP/1.1 200 ")
