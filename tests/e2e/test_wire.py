"""Given the whole system, started by its command line, when a stranger knows only its contract."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastavro
import httpx2 as httpx
import pytest

from tests.e2e.checkout_story import check_out
from tests.e2e.running_system import (
    System,
    cli,
    joined,
    murmur2,
    records,
    running_system,
)
from tidelog.embedded import seed


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("wire")) as running:
        yield running


@pytest.fixture(params=["command_service", "gateway"])
def commands(request: pytest.FixtureRequest, system: System) -> Iterator[httpx.Client]:
    """The door for commands: the service itself, and the gateway, which must be no different."""
    with httpx.Client(base_url=system.url(request.param), trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture(params=["query_service", "gateway"])
def queries(request: pytest.FixtureRequest, system: System) -> Iterator[httpx.Client]:
    """The door for queries, both ways."""
    with httpx.Client(base_url=system.url(request.param), trust_env=False, timeout=20) as client:
        yield client


def new_id() -> str:
    return f"o-{uuid.uuid4().hex[:12]}"


def order(**changes: Any) -> dict[str, Any]:
    return {
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [{"sku": "tea", "quantity": 2, "unit_price": 790}],
        "ship_to": {
            "name": "Ada",
            "street": "1 Harbour Road",
            "city": "Bremen",
            "postal_code": "28195",
            "country": "DE",
        },
        **changes,
    }


def line(**changes: Any) -> dict[str, Any]:
    return {"sku": "tea", "quantity": 1, "unit_price": 1, **changes}


def lines(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [line(sku=f"s{number}", **changes) for number in range(count)]


def place(client: httpx.Client, id: str, body: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(
        f"/orders/{id}/place-order", json=order() if body is None else body, headers=named
    )


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and name of a problem, whose form is checked too."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = answer.json()
    assert {"type", "title", "status", "detail", "instance", "trace_id"} <= found.keys()
    assert found["status"] == answer.status_code
    return answer.status_code, found["type"].removeprefix("/problems/")


# Commands.


def test_a_command_is_answered_with_its_events_and_a_token(commands: httpx.Client) -> None:
    order_id = new_id()
    first = place(commands, order_id, Idempotency_Key="k", X_Correlation_Id=f"visit-{order_id}")

    assert first.status_code == 201
    body = first.json()
    token = body["token"]
    assert body == {
        "id": order_id,
        "version": 1,
        "events": [{"type": "OrderPlaced", "position": token}],
        "token": token,
        "replayed": False,
    }
    assert re.fullmatch(r"orders:[0-9]+:[0-9]+", token)
    assert first.headers["etag"] == '"1"'
    assert first.headers["consistency-token"] == token
    assert first.headers["x-correlation-id"] == f"visit-{order_id}"
    assert first.headers["idempotency-key"] == "k"

    again = place(commands, order_id, Idempotency_Key='"k"', If_Match='"77"')
    assert (again.status_code, again.json()) == (201, {**body, "replayed": True})
    other = place(commands, order_id, order(currency="USD"), Idempotency_Key="k")
    assert problem(other) == (422, "idempotency-key-reused")
    same = place(commands, order_id)  # the saga may have led it on by now
    assert (same.status_code, same.json()["events"]) == (200, [])
    assert int(same.json()["token"].split(":")[2]) >= int(token.split(":")[2])
    dollars = place(commands, order_id, order(currency="USD"))
    assert problem(dollars) == (409, "order-already-placed")


def test_a_cancel_goes_by_the_rules_and_by_the_version(commands: httpx.Client) -> None:
    order_id = new_id()

    def cancel(**headers: str) -> httpx.Response:
        return commands.post(
            f"/orders/{order_id}/cancel-order", json={"reason": "x"}, headers=headers
        )

    assert problem(cancel(**{"Idempotency-Key": "c"})) == (409, "order-never-placed")
    assert problem(cancel(**{"If-Match": "*"})) == (412, "stale-version")
    commands.post(f"/inventory/{order_id}/receive-stock", json={"quantity": 1})  # it goes on
    place(commands, order_id, order(lines=[line(sku=order_id)]))
    stale = cancel(**{"If-Match": '"0"'})
    assert problem(stale) == (412, "stale-version")
    for malformed in ("1", 'W/"1"', '"01"', '"1","2"', ""):
        assert problem(cancel(**{"If-Match": malformed})) == (400, "malformed")
    version, done = 0, stale
    while done.status_code == 412:  # it went on; a refusal is decided again under its key
        version = done.json()["actual_version"]
        done = cancel(**{"If-Match": f'"{version}"', "Idempotency-Key": "c"})
    assert (done.status_code, done.json()["version"]) == (201, version + 1)
    assert cancel().status_code == 200


def test_the_same_key_at_the_same_time_gives_one_event(commands: httpx.Client) -> None:
    order_id = new_id()
    with ThreadPoolExecutor(32) as pool:
        answers = list(
            pool.map(lambda _: place(commands, order_id, Idempotency_Key="p"), range(200))
        )

    assert {answer.status_code for answer in answers} == {201}
    assert sum(not answer.json()["replayed"] for answer in answers) == 1
    assert len({answer.json()["token"] for answer in answers}) == 1


BAD_BODIES: Sequence[tuple[int, bytes | dict[str, Any]]] = (
    (400, b""),
    (400, b'{"customer_id":'),
    (400, b'{"customer_id":"\xff"}'),
    (400, b"[" * 100_000),
    (400, json.dumps(order()).replace("790", "NaN").encode()),
    (400, json.dumps(order()).replace('"c-1"', '"c-1","customer_id":"c-2"').encode()),
    (422, b"[]"),
    (422, json.dumps(order()).replace("Ada", "\\ud800").encode()),
    (422, json.dumps(order()).replace("Ada", "\\u0000").encode()),
    (422, json.dumps(order()).replace("790", "7" * 5_000).encode()),
    (422, order(is_admin=True)),
    (422, order(currency="ZZZ")),
    (422, order(customer_id="a b")),
    (422, order(customer_id="..")),
    (422, order(lines=[])),
    (422, order(lines=lines(101))),
    (422, order(lines=[line(), line()])),
    (422, order(lines=[line(quantity=0)])),
    (422, order(lines=[line(quantity=1_000_001)])),
    (422, order(lines=[line(quantity="7")])),
    (422, order(lines=[line(quantity=1.0)])),
    (422, order(lines=[line(quantity=True)])),
    (422, order(lines=[line(unit_price=-1)])),
    (422, order(lines=[line(unit_price=10**12 + 1)])),
    (422, order(lines=[line(unit_price=10**12, quantity=9_008)])),
    (422, order(lines=lines(100, unit_price=10**12, quantity=10**6))),
    (413, b" " * (1024 * 1024 + 1)),
)


def test_a_bad_body_is_refused_and_the_largest_good_one_is_not(commands: httpx.Client) -> None:
    typed = {"Content-Type": "application/json"}
    for status, body in BAD_BODIES:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = f"/orders/{new_id()}/place-order"
        answer = commands.post(path, content=content, headers=typed)
        assert problem(answer)[0] == status, body[:80] if isinstance(body, bytes) else body

    largest = line(unit_price=10**12, quantity=9_007)
    assert place(commands, new_id(), order(lines=[largest])).status_code == 201
    assert place(commands, new_id(), order(lines=lines(100))).status_code == 201
    assert place(commands, "a" * 96 + uuid.uuid4().hex).status_code == 201


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [
        (422, "POST", "/orders/a%20b/place-order"),
        (422, "POST", "/orders/%2E%2E/place-order"),
        (422, "POST", "/orders/a%2Fb/place-order"),
        (422, "POST", f"/orders/{'a' * 129}/place-order"),
        (400, "POST", "/orders/a%00b/place-order"),
        (400, "POST", "/orders/a%ff/place-order"),
        (400, "POST", "/orders/a%zz/place-order"),
        (404, "POST", "/orders/x/fly-away"),
        (404, "GET", "/orders/x/fly-away"),
        (404, "POST", "/nothing/x/place-order"),
        (405, "GET", "/orders/x/place-order"),
        (405, "OPTIONS", "/orders/x/place-order"),
        (405, "PUT", "/commands"),
        (415, "POST", "/comm%61nds"),
        (431, "POST", f"/orders/{'a' * 40_000}/place-order"),
    ],
)
def test_a_path_is_read_strictly(
    commands: httpx.Client, status: int, method: str, path: str
) -> None:
    request = commands.build_request(method, "/", json=order())
    request.extensions["target"] = path.encode()

    assert problem(commands.send(request))[0] == status


def test_a_header_is_read_strictly(commands: httpx.Client) -> None:
    for key in ("x" * 129, "", '"', "a\x7f"):
        assert problem(place(commands, new_id(), Idempotency_Key=key))[0] == 400
    assert problem(place(commands, new_id(), Content_Encoding="gzip"))[0] == 415
    assert problem(place(commands, new_id(), Content_Type="text/plain"))[0] == 415
    assert problem(place(commands, new_id(), X_Large="x" * 33_000))[0] == 431


def test_a_body_that_comes_too_slowly_is_a_timeout(commands: httpx.Client) -> None:
    address = (commands.base_url.host, commands.base_url.port)
    head = b"POST /orders/slow/place-order HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(address, timeout=20) as caller:
        caller.sendall(head + b"Content-Type: application/json\r\nContent-Length: 400\r\n\r\n{")
        with caller.makefile("rb") as answer:
            assert b" 408 " in answer.readline()
            answer.read()  # to the end: the connection is closed


def test_lines_are_independent(commands: httpx.Client) -> None:
    order_id = new_id()
    given: list[Any] = [
        {"command": "orders/place-order", "id": order_id, "data": order(), "idempotency_key": "n"},
        "{broken",
        {"command": "orders/place-order", "id": order_id, "data": order(), "idempotency_key": "n"},
        {
            "command": "orders/cancel-order",
            "id": order_id,
            "data": {"reason": "x"},
            "if_match": '"1"',
        },
        {"command": "no/such", "id": order_id, "data": {}},
        {"command": "orders/cancel-order", "id": new_id(), "data": {"reason": "x"}},
    ]
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in given)
    answer = commands.post(
        "/commands", content=text.encode(), headers={"Content-Type": "application/x-ndjson"}
    )

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(each) for each in answer.text.splitlines()]
    assert [each["status"] for each in found] == [201, 400, 201, 201, 404, 409]
    assert found[2]["result"] == {**found[0]["result"], "replayed": True}
    assert found[5]["problem"]["type"] == "/problems/order-never-placed"


def test_an_operation_is_asked_about_until_it_is_done(commands: httpx.Client) -> None:
    order_id = new_id()

    def outcome(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 202
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found: dict[str, Any] = commands.get(answer.headers["location"]).json()
            if found["status"] != "running":
                return found
            time.sleep(0.05)
        raise AssertionError("still running")

    cancel = f"/orders/{order_id}/cancel-order"
    wait = {"Prefer": "respond-async", "Idempotency-Key": "a"}
    refused = outcome(commands.post(cancel, json={"reason": "x"}, headers=wait))
    assert (refused["status"], refused["problem"]["status"]) == ("refused", 409)

    # What was refused left nothing behind: its key may be used for something else.
    done = outcome(place(commands, order_id, Prefer="respond-async", Idempotency_Key="a"))
    assert (done["status"], done["result"]["version"]) == ("done", 1)
    assert place(commands, order_id, Idempotency_Key="a").json()["replayed"]
    assert outcome(place(commands, order_id, Prefer="respond-async", Idempotency_Key="a")) == done
    other = commands.post(cancel, json={"reason": "x"}, headers=wait)
    assert problem(other) == (422, "idempotency-key-reused")
    assert problem(commands.get("/operations/unknown")) == (404, "unknown")


# Queries.

DOCUMENT = (
    "id version status customer_id currency lines total ship_to cancel_reason placed_at "
    "updated_at position"
)


def test_a_read_sees_what_its_token_names(system: System, queries: httpx.Client) -> None:
    order_id = new_id()
    with httpx.Client(base_url=system.url("command_service"), trust_env=False) as commands:
        token = place(commands, order_id).headers["consistency-token"]
    read = queries.get(f"/orders/{order_id}", headers={"Consistency-Token": token})

    assert (read.status_code, read.headers["etag"]) == (200, '"1"')
    body = read.json()
    assert " ".join(body) == DOCUMENT
    assert (body["status"], body["total"], body["position"]) == ("placed", 1_580, token)
    assert {name: body[name] for name in order()} == order()
    known = queries.get(f"/orders/{order_id}", headers={"If-None-Match": 'W/"1"'})
    assert (known.status_code, known.content) == (304, b"")

    context, partition, sequence = token.split(":")
    future = f"{context}:{partition}:{int(sequence) + 1_000}"
    late = queries.get(f"/orders/{order_id}?wait_ms=100", headers={"Consistency-Token": future})
    assert problem(late) == (503, "not-yet-visible")
    assert late.headers["retry-after"]
    for malformed in ("x", "orders:0", "nope:0:1", "orders:999:1", "orders:0:-1", ""):
        answer = queries.get(f"/orders/{order_id}", headers={"Consistency-Token": malformed})
        assert problem(answer) == (400, "malformed"), malformed
    assert problem(queries.get(f"/orders/{new_id()}"))[0] == 404
    assert problem(queries.get(f"/orders/{order_id}?wait_ms=10001"))[0] == 422


# A checkout: the gateway only.


def test_a_checkout_is_answered_at_once_and_done_by_events(system: System) -> None:
    with httpx.Client(base_url=system.url("gateway"), trust_env=False, timeout=20) as client:
        check_out(client)


# Every service, the log, the command line.


def test_example_data_that_is_there_already_is_not_sent_again_under_a_new_key(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a week later, when the keys are forgotten."""
    monkeypatch.setattr(seed, "KEY_PREFIX", "later-")
    with httpx.Client(base_url=system.url("gateway"), trust_env=False, timeout=20) as client:
        before = client.get("/stock/tea-sencha").json()
        seed.seed(system.url("gateway"))
        assert client.get("/stock/tea-sencha").json()["version"] == before["version"] == 1


def test_every_service_tells_of_its_health(system: System) -> None:
    for process in system.content["processes"]:
        if process["url"] is None or process["name"] == "registry":
            continue
        with httpx.Client(base_url=process["url"], trust_env=False) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz?verbose").json()["status"] == "ready"
            assert "tidelog_http_requests_total" in client.get("/metrics").text
            assert problem(client.get("/no/such/path/at/all")) == (404, "unknown")
    with httpx.Client(base_url=system.url("gateway"), trust_env=False) as client:
        for name in ("order-never-placed", "stale-version", "not-yet-visible", "bad-gateway"):
            assert "<html" in client.get(f"/problems/{name}").text


def test_the_log_is_as_the_contract_says(system: System) -> None:
    order_id = new_id()
    with httpx.Client(base_url=system.url("gateway"), trust_env=False) as client:
        place(client, order_id, X_Correlation_Id=f"visit-{order_id}")
        registry = httpx.Client(base_url=system.url("registry"), trust_env=False)
    last: dict[int | None, int] = {}
    found = []
    for record in records(system, "orders.events"):
        raw: Any = record.headers()
        headers = {name: value.decode() for name, value in raw}
        key, value = record.key() or b"", record.value() or b""
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        assert murmur2(key) % 4 == record.partition()
        assert int(headers["ce_sequence"]) == last.get(record.partition(), 0) + 1
        last[record.partition()] = int(headers["ce_sequence"])
        assert headers["ce_subject"] == key.decode()
        if key.decode() == order_id:
            found.append((headers, value))

    headers, value = found[0]  # what follows is what the sagas made of it
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}", headers["ce_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", headers["ce_time"])
    assert re.fullmatch(r"[0-9a-f]{64}", headers["ce_commandhash"])
    assert headers["ce_correlationid"] == f"visit-{order_id}"
    assert headers["ce_type"] == "tidelog.orders.OrderPlaced"
    with registry:
        subject = "orders.events-tidelog.orders.OrderPlaced"
        number = struct.unpack(">xI", value[:5])[0]
        schema = json.loads(registry.get(f"/schemas/ids/{number}").json()["schema"])
        level = registry.get(f"/config/{subject}?defaultToGlobal=true").json()
    assert level["compatibilityLevel"] == "FULL_TRANSITIVE"
    event: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
    assert event["order_id"] == order_id


def test_the_command_line_says_it_in_json_and_by_its_exit_code(
    system: System, tmp_path: Path
) -> None:
    topics = system.tidelog("topics", "--json")
    assert "orders.events" in {item["name"] for item in json.loads(topics.stdout)["items"]}
    events = cli("--dev", str(system.dev), "events", "orders", "--json")
    assert events.returncode == 0
    assert json.loads(events.stdout)["items"]
    assert system.tidelog("events", "nothing").returncode == 1
    assert system.tidelog("frobnicate").returncode == 2

    gone = tmp_path / "dev.json"
    nowhere = {**system.content, "kafka": {"bootstrap_servers": "127.0.0.1:1"}}
    gone.write_text(json.dumps(nowhere))
    unreachable = cli("topics", "--json", "--dev", str(gone))
    assert (unreachable.returncode, unreachable.stdout) == (3, "")


def test_a_further_instance_joins_by_the_file_and_takes_its_share(
    system: System, tmp_path: Path
) -> None:
    with joined(system, "command_service", tmp_path / "joined.log") as entry:
        with httpx.Client(base_url=entry["url"], trust_env=False, timeout=20) as client:
            until(lambda: "tidelog_partition_serving{" in served(client), "it serves partitions")
            assert placed_in_each_partition(client) == [201] * 4
        with httpx.Client(base_url=system.url("gateway"), trust_env=False, timeout=20) as client:
            assert placed_in_each_partition(client) == [201] * 4
    until(lambda: entry["pid"] not in {each["pid"] for each in system.now()}, "it is gone")


def placed_in_each_partition(client: httpx.Client) -> list[int]:
    ids = {murmur2(order_id.encode()) % 4: order_id for order_id in (new_id() for _ in range(200))}
    return [place(client, order_id).status_code for order_id in ids.values()]


def served(client: httpx.Client) -> str:
    """The lines of the partitions that an instance serves; empty where it does not answer yet."""
    try:
        lines = client.get("/metrics").text.splitlines()
    except httpx.TransportError:
        return ""
    return "\n".join(line for line in lines if "_serving{" in line and line.endswith(" 1.0"))


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
