"""Given a service in trouble, when requests come, then only those that need it feel it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from gateway.app import build
from gateway.errors import GatewayTimeout
from gateway.routes import Upstream
from gateway.services import (
    BREAKER,
    CONNECTIONS_MAX,
    RETRIES_SAVED_MAX,
    STREAM_SILENCE_S,
    Services,
)
from tests.gateway_world import BACKGROUND, GuardedDoor, TableService, guarded_door, problem
from tests.integration.command_server import serving
from tidelog.settings import Settings


class Breaking:
    """A server that closes the first `broken` connections without a word, then answers 200."""

    def __init__(self, broken: int) -> None:
        self.broken = broken
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                raw = connection.recv(65_536)
                if raw.startswith(b"STOP"):
                    return
                background = raw.startswith(b"GET %s " % BACKGROUND.encode())
                if not background:
                    self.requests.append(raw)
                if background or len(self.requests) > self.broken:
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
                    )

    def close(self) -> None:
        port = self._listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as last:
            last.sendall(b"STOP")
        self._thread.join(10)
        self._listener.close()


@contextmanager
def broken_service(broken: int) -> Iterator[tuple[httpx2.Client, Breaking]]:
    service = Breaking(broken)
    try:
        settings = Settings(
            command_service_url=service.url,
            query_service_url=service.url,
            gateway_cache_bytes_max=0,  # nothing but the requests of the tests
        )
        with (
            serving(build(settings, CollectorRegistry())) as url,
            httpx2.Client(base_url=url, trust_env=False, timeout=30) as client,
        ):
            yield client, service
    finally:
        service.close()


class Hanging(TableService):
    """A service that answers nobody before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.let_go = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.asked += 1
            while not self.let_go.is_set():
                await asyncio.sleep(0.02)
        await super().__call__(scope, receive, send)


def metric(client: httpx2.Client, name: str, dependency: str) -> float:
    start = f'{name}{{dependency="{dependency}"}} '
    lines = client.get("/metrics").text.splitlines()
    (found,) = [line.removeprefix(start) for line in lines if line.startswith(start)]
    return float(found)


def test_a_query_that_breaks_off_is_asked_again() -> None:
    with broken_service(1) as (client, service):
        assert client.get("/orders/o-1").status_code == 200
        assert len(service.requests) == 2
        assert metric(client, "tidelog_gateway_retries_total", "query_service") == 1


def test_a_command_is_sent_again_only_with_a_key_of_the_callers_own() -> None:
    with broken_service(1) as (client, service):
        answer = client.post("/orders/o-1/place-order", content=b"{}")
        assert problem(answer) == (502, "bad-gateway")
        assert len(service.requests) == 1
    with broken_service(1) as (client, service):
        headers = {"Idempotency-Key": "k-1"}
        answer = client.post("/orders/o-1/place-order", content=b"{}", headers=headers)
        assert answer.status_code == 200
        assert len(service.requests) == 2
        assert all(b"idempotency-key: k-1" in raw.lower() for raw in service.requests)


def test_second_tries_have_a_budget_and_the_breaker_opens() -> None:
    with broken_service(1_000_000) as (client, service):
        answers = [client.get("/orders/o-1") for _ in range(100)]

        assert answers[0].status_code == 502
        assert problem(answers[-1]) == (503, "unavailable")
        assert "retry-after" in answers[-1].headers
        # Second tries too are calls; when the breaker opened, nothing more went out but trials.
        first = BREAKER.calls_min + RETRIES_SAVED_MAX
        assert metric(client, "tidelog_gateway_retries_total", "query_service") <= first
        assert len(service.requests) < 60
        assert metric(client, "tidelog_gateway_refusals_total", "query_service") > 0
        assert metric(client, "tidelog_breaker_state", "query_service") > 0


def test_a_service_that_is_down_takes_no_route_of_another_along() -> None:
    queries = TableService()
    with ExitStack() as stack:
        settings = Settings(
            command_service_url="http://127.0.0.1:9",
            query_service_url=stack.enter_context(serving(cast("Any", queries))),
        )
        url = stack.enter_context(serving(build(settings, CollectorRegistry())))
        client = stack.enter_context(httpx2.Client(base_url=url, trust_env=False))
        commands = [client.post("/orders/o-1/place-order", content=b"{}") for _ in range(50)]

        assert {answer.status_code for answer in commands} == {502, 503}
        assert all(client.get("/stock").status_code == 200 for _ in range(50))
        assert metric(client, "tidelog_breaker_state", "query_service") == 0


def test_a_gateway_stays_ready_while_any_service_answers() -> None:
    # given one service that hangs
    hanging, queries = Hanging(), TableService()
    with ExitStack() as stack:
        settings = Settings(
            command_service_url=stack.enter_context(serving(cast("Any", hanging))),
            query_service_url=stack.enter_context(serving(cast("Any", queries))),
        )
        url = stack.enter_context(serving(build(settings, CollectorRegistry())))
        client = stack.enter_context(httpx2.Client(base_url=url, trust_env=False))
        # then whoever spreads the load goes on sending, and a person is told what is missing
        told = client.get("/readyz?verbose")
        hanging.let_go.set()
    assert told.status_code == 200
    assert {check["name"]: check["ready"] for check in told.json()["checks"]} == {
        "command_service": False,
        "query_service": True,
        "any service": True,
    }


async def test_a_stream_that_does_not_begin_is_not_waited_for_as_long_as_a_silent_one() -> None:
    hanging = Hanging()
    with serving(cast("Any", hanging)) as url:
        services = Services({Upstream.QUERIES: url}, answer_timeout_s=0.1)
        async with asyncio.timeout(STREAM_SILENCE_S / 2):
            with pytest.raises(GatewayTimeout):
                await services.send(Upstream.QUERIES, "GET", b"/metrics/live", [], streams=True)
        hanging.let_go.set()
        await services.close()


def test_the_breaker_closes_once_the_service_answers_again() -> None:
    with broken_service(30) as (client, _):
        until = time.monotonic() + 30
        while client.get("/stock").status_code != 200:
            assert time.monotonic() < until, "the service answers, and is not asked"
        assert metric(client, "tidelog_breaker_state", "query_service") == 0
        assert client.get("/stock").status_code == 200


def test_a_service_that_hangs_holds_up_nobody_else() -> None:
    commands, queries = Hanging(), TableService()
    with ExitStack() as stack:
        settings = Settings(
            command_service_url=stack.enter_context(serving(cast("Any", commands))),
            query_service_url=stack.enter_context(serving(cast("Any", queries))),
        )
        url = stack.enter_context(serving(build(settings, CollectorRegistry())))

        async def many() -> list[int]:
            limits = httpx2.Limits(max_connections=CONNECTIONS_MAX + 100)
            async with httpx2.AsyncClient(
                base_url=url, trust_env=False, limits=limits, timeout=60
            ) as client:
                held = [
                    asyncio.create_task(client.post("/orders/o-1/cancel-order", content=b"{}"))
                    for _ in range(CONNECTIONS_MAX + 10)
                ]
                while commands.asked < CONNECTIONS_MAX:
                    await asyncio.sleep(0.02)
                seen = [(await client.get("/stock")).status_code for _ in range(20)]
                # Those without a connection of the service hear so; none waits for ever.
                done, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
                assert {task.result().status_code for task in done} == {503}
                commands.let_go.set()
                await asyncio.wait(held)
                return seen

        assert asyncio.run(many()) == [200] * 20


@pytest.fixture
def door(tmp_path: Path) -> Iterator[GuardedDoor]:
    with guarded_door(tmp_path, gateway_auth="off") as door:
        yield door


def test_what_can_be_read_can_be_asked_for_without_its_body(door: GuardedDoor) -> None:
    door.queries.answers["/stock/tea"] = (200, {"sku": "tea"})
    door.queries.answers["/stock/none"] = (404, {})

    head, absent = door.send("HEAD", "/stock/tea"), door.send("HEAD", "/stock/none")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "application/json"
    assert (absent.status_code, absent.content) == (404, b"")
    assert [told.method for told in door.queries.told] == ["GET", "GET"]
    assert problem_of_head(door.send("HEAD", "/orders/o-1/live")) == 405
    assert json.loads(door.send("GET", "/stock/tea").content) == {"sku": "tea"}


def problem_of_head(answer: httpx2.Response) -> int:
    assert answer.headers["allow"] == "GET"
    return answer.status_code
