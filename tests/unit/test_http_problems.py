"""Problem documents, their pages, the OpenAPI document, counts and time limits."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
from fastapi import APIRouter, Query
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from command_service.aggregates import AGGREGATES
from command_service.orders import OrderNeverPlaced
from tidelog import Rejected
from tidelog.engine.command import Recorded, Unchanged
from tidelog.errors import (
    Blocked,
    CodecError,
    DefinitionError,
    IdempotencyKeyReused,
    Invalid,
    NotYetVisible,
    StaleVersion,
    Unavailable,
)
from tidelog.http.access_log import AccessLog
from tidelog.http.answers import answer_of, result_of
from tidelog.http.command_api import CommandApi, command_routes
from tidelog.http.metrics import HttpMetrics
from tidelog.http.openapi import body_example, openapi_of
from tidelog.http.patience import Patience
from tidelog.http.ports import ReadinessCheck
from tidelog.http.problems import Problem, known_problems, problem_of, rules_of
from tidelog.http.service import build_service

TRACE = "0af7651916cd43dd8448eb211c80319c"
ROUTES = command_routes(AGGREGATES)


def document(problem: Problem) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(problem))
    return found


def test_a_rule_is_told_by_its_docstring_and_named_by_its_class() -> None:
    assert document(problem_of(OrderNeverPlaced("EVIL"), "/orders/o-1/cancel-order", TRACE)) == {
        "type": "/problems/order-never-placed",
        "title": "Order never placed",
        "status": 409,
        "detail": OrderNeverPlaced("x").detail,
        "instance": "/orders/o-1/cancel-order",
        "trace_id": TRACE,
    }


def test_a_problem_carries_what_its_kind_needs() -> None:
    assert document(problem_of(StaleVersion(4), "/x", TRACE))["actual_version"] == 4
    assert document(problem_of(StaleVersion(0), "/x", TRACE))["actual_version"] == 0
    visible = NotYetVisible("Not there yet.", "orders:0:7")
    assert document(problem_of(visible, "/x", TRACE))["current_position"] == "orders:0:7"
    found = document(problem_of(Invalid("Wrong.", "/a"), "/x", TRACE))
    assert found["errors"] == [{"pointer": "/a", "detail": "Wrong."}]
    assert "errors" not in document(problem_of(IdempotencyKeyReused(), "/x", TRACE))


def test_a_fault_of_ours_does_not_say_what_it_was() -> None:
    found = document(problem_of(CodecError("EVIL bytes"), "/x", TRACE))
    assert found["type"] == "/problems/internal-error"
    assert "EVIL" not in str(found)


@pytest.mark.parametrize("path", ["", "x", "/a b", "/<script>", "/" + "a" * 129, "/é", "/a\n"])
def test_a_path_that_could_carry_input_along_is_no_instance(path: str) -> None:
    assert problem_of(Blocked("b"), path, TRACE).instance == f"urn:trace:{TRACE}"


def test_every_rule_of_every_aggregate_has_a_page() -> None:
    known = known_problems(AGGREGATES)
    client = TestClient(build_service_with(known=True))
    rules = [rule for aggregate in AGGREGATES for rule in rules_of(aggregate)]
    assert len(rules) > 10
    for rule in rules:
        page = client.get(f"/problems/{rule.slug()}")
        assert page.status_code == 200
        assert "409 Conflict" in page.text
    for slug in known:
        assert client.get(f"/problems/{slug}").status_code == 200
        assert f"/problems/{slug}" in client.get("/problems").text
    assert client.get("/problems/no-such").status_code == 404
    assert client.get("/problems/no-such").json()["type"] == "/problems/unknown"


class Blocked2(Rejected):
    """A rule with the name of a platform error."""


def test_two_errors_of_one_name_are_refused_at_start() -> None:
    Blocked2.__name__ = "Blocked"
    with pytest.raises(DefinitionError, match="blocked"):
        known_problems([], [Blocked2])


class NoDoor:
    """Nothing comes through."""

    async def submit(self, context: str, envelope: Any) -> Any:
        raise Unavailable("closed")

    def partition_of(self, context: str, key: str) -> int:
        return 0

    async def enqueue(self, context: str, envelope: Any) -> None:
        raise Unavailable("closed")


def build_service_with(*, known: bool = False, **options: Any) -> Any:
    commands = CommandApi(AGGREGATES, NoDoor(), command_timeout_ms=1_000) if known else None
    return build_service(
        name="test", version="1", commands=commands, registry=CollectorRegistry(), **options
    )


class Item(BaseModel, extra="forbid", strict=True):
    """A body that FastAPI checks."""

    count: int


def framework_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/items")
    async def items(limit: int = Query(default=50, ge=1, le=200)) -> dict[str, int]:
        return {"limit": limit}

    @router.post("/items")
    async def add(item: Item) -> dict[str, int]:
        return {"count": item.count}

    @router.get("/fault")
    async def fault() -> None:
        raise RuntimeError("EVIL")

    @router.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(415, "EVIL")

    @router.get("/blocked")
    async def blocked() -> None:
        raise Blocked("The key waits.")

    return router


def test_routes_of_the_framework_answer_with_the_same_problems() -> None:
    client = TestClient(build_service_with(routers=[framework_routes()]))
    sent: list[tuple[str, str, Any, int, str]] = [
        ("GET", "/items?limit=EVIL", None, 422, "invalid"),
        ("GET", "/items?limit=0", None, 422, "invalid"),
        ("GET", "/items?limit=%00", None, 400, "malformed"),
        ("POST", "/items", '{"count":"EVIL"}', 422, "invalid"),
        ("POST", "/items", '{"count":NaN}', 422, "invalid"),
        ("POST", "/items", '{"count":1e400}', 422, "invalid"),
        ("POST", "/items", '{"count":"\\ud800"}', 422, "invalid"),
        ("POST", "/items", "{EVIL", 400, "malformed"),
        ("GET", "/fault", None, 500, "internal-error"),
        ("GET", "/teapot", None, 415, "unsupported-media-type"),
        ("GET", "/blocked", None, 409, "blocked"),
        ("GET", "/EVIL", None, 404, "unknown"),
        ("GET", "/items/", None, 404, "unknown"),
        ("DELETE", "/items", None, 405, "method-not-allowed"),
    ]
    for method, path, body, status, name in sent:
        answer = client.request(
            method,
            path,
            content=body,
            headers={"content-type": "application/json", "x-correlation-id": "visit-1"},
        )
        assert answer.status_code == status, (path, body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        found = answer.json()
        assert found["type"] == f"/problems/{name}"
        assert len(found["trace_id"]) == 32
        assert "EVIL" not in answer.text.replace("/EVIL", "")
        assert answer.headers["x-correlation-id"] == "visit-1"
    assert client.get("/items").json() == {"limit": 50}


def test_readiness_says_what_is_missing() -> None:
    async def good() -> None:
        return None

    async def waiting() -> str:
        return "partition 3 is being taken over"

    async def broken() -> None:
        raise RuntimeError("EVIL")

    checks = [
        ReadinessCheck(name="kafka", check=good),
        ReadinessCheck(name="owner", check=waiting),
        ReadinessCheck(name="broken", check=broken),
    ]
    client = TestClient(build_service_with(checks=checks))
    brief = client.get("/readyz")
    assert (brief.status_code, brief.headers["retry-after"]) == (503, "1")
    told = client.get("/readyz?verbose")
    assert told.status_code == 503
    states = [(check["name"], check["ready"]) for check in told.json()["checks"]]
    assert states == [("kafka", True), ("owner", False), ("broken", False)]
    assert "partition 3" in told.text
    assert "EVIL" not in told.text
    assert client.get("/livez").status_code == 200


def test_what_is_not_vital_is_shown_and_keeps_nobody_away() -> None:
    async def away() -> str:
        return "one of two does not answer"

    client = TestClient(
        build_service_with(checks=[ReadinessCheck(name="one", check=away, vital=False)])
    )
    assert client.get("/readyz").status_code == 200
    told = client.get("/readyz?verbose")
    assert (told.status_code, told.json()["status"]) == (200, "ready")
    assert told.json()["checks"] == [
        {"name": "one", "ready": False, "detail": "one of two does not answer"}
    ]


def test_openapi_has_every_command_with_an_example_that_is_accepted() -> None:
    found = openapi_of("command_service", "1", ROUTES)
    json.dumps(found)
    for route in ROUTES:
        operation = found["paths"][route.template]["post"]
        statuses = set(operation["responses"])
        expected = "200 201 202 400 401 403 404 405 408 409 412 413 415 422 428 431 500 503"
        assert statuses == set(expected.split())
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert example == body_example(route)
        route.reader.read(json.dumps(example).encode(), "id-1")
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert route.context.key not in schema["properties"]
        assert set(schema["required"]) <= set(example)


def test_every_reference_of_openapi_leads_somewhere() -> None:
    found = openapi_of("command_service", "1", ROUTES)
    waiting: list[Any] = [found]
    references = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            references.add(value.get("$ref"))
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    for reference in references - {None}:
        place: Any = found
        for step in str(reference).removeprefix("#/").split("/"):
            place = place[step]
    assert len(references) > 10


def test_an_answer_is_the_json_that_the_contract_names() -> None:
    recorded = Recorded(version=3, events=(("A", 6), ("B", 7)), replayed=True)
    answer = answer_of(recorded, "orders", 2, "o-1")
    assert (answer.status, answer.version, answer.token) == (201, 3, "orders:2:7")
    assert result_of(recorded, "orders", 2, "o-1") == {
        "id": "o-1",
        "version": 3,
        "events": [
            {"type": "A", "position": "orders:2:6"},
            {"type": "B", "position": "orders:2:7"},
        ],
        "token": "orders:2:7",
        "replayed": True,
    }
    nothing = answer_of(Unchanged(version=0, sequence=0), "orders", 2, "o-1")
    assert (nothing.status, nothing.token) == (200, None)
    assert "token" not in json.loads(nothing.body)


def test_metrics_count_by_template_and_keep_their_labels_bounded() -> None:
    metrics, registry = HttpMetrics(), CollectorRegistry()
    registry.register(metrics)
    metrics.observe("/a", "GET", 200, 0.003)
    metrics.observe("/a", "GET", 200, 100.0)
    metrics.observe("/a", "EVIL", 404, 0.0)
    text = generate_latest(registry).decode()
    labels = 'method="GET",route="/a"'
    assert f'tidelog_http_requests_total{{{labels},status="200"}} 2.0' in text
    assert f'tidelog_http_request_seconds_bucket{{le="0.005",{labels}}} 1.0' in text
    assert f'tidelog_http_request_seconds_bucket{{le="+Inf",{labels}}} 2.0' in text
    assert "EVIL" not in text
    for number in range(2_000):
        metrics.observe(f"/{number}", "GET", 200, 0.0)
    assert 'route="/1500"' not in generate_latest(registry).decode()


async def test_patience_ends_a_long_wait_and_leaves_a_short_one_alone() -> None:
    patience = Patience(0.05)
    with patience.wait():
        await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(TimeoutError), patience.wait():
        await asyncio.sleep(5)
    assert 0.04 < time.monotonic() - began < 1
    await asyncio.sleep(0.12)  # An ended wait is forgotten: nothing is cancelled later.


async def test_patience_tells_its_own_end_from_a_cancellation() -> None:
    patience = Patience(10)

    async def work() -> None:
        with patience.wait():
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_access_log_writes_faults_and_keeps_its_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = AccessLog("test", "1", everything=False)
    log.record("GET", "/a", 200, 0.001, None)
    log.record("GET", "/b", 503, 0.001, "visit-1")
    for _ in range(10_001):
        log.record("GET", "/c", 200, 2.0, None)
    log.flush()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0]["route"] == "/b"
    assert lines[0]["correlation_id"] == "visit-1"
    assert lines[-1] == {"event": "access log lines dropped", "count": 2}
    assert len(lines) == 10_001
