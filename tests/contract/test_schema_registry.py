"""One suite for every schema registry, and one for the REST API as Confluent documents it.

`http` is the real server (uvicorn) over the log in memory, `kafka` the same over a real topic.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import TypeAlias

import httpx2
import pytest

from tests.registry_server import (
    EVENTS,
    MEDIA_TYPE,
    NOTE,
    TOTAL,
    Logs,
    logs_on_kafka,
    order_placed,
    running,
)
from tidelog.errors import CodecError
from tidelog.registry import (
    MemoryRegistry,
    RegistryClient,
    RegistryRefusal,
    SchemaRegistry,
)
from tidelog.registry.log import MemoryLog, MemoryTopic, SchemaLog

Answer: TypeAlias = tuple[int, object]


@pytest.fixture(params=["memory", "kafka"])
def logs(request: pytest.FixtureRequest) -> Logs:
    """Makes logs that share one topic, as instances of the registry do."""
    if request.param == "memory":
        topic = MemoryTopic()
        return lambda: MemoryLog(topic)
    return logs_on_kafka(request.getfixturevalue("kafka"), request.getfixturevalue("namespace"))


@pytest.fixture(params=["memory", "http", "kafka"])
def registry(request: pytest.FixtureRequest) -> Iterator[SchemaRegistry]:
    """A registry that knows nothing yet."""
    if request.param == "memory":
        yield MemoryRegistry()
        return
    log: SchemaLog = MemoryLog()
    if request.param == "kafka":
        servers, prefix = (
            request.getfixturevalue("kafka"),
            request.getfixturevalue("namespace"),
        )
        log = logs_on_kafka(servers, prefix)()
    with running(log) as url, contextlib.closing(RegistryClient(url)) as client:
        yield client


class TestEverySchemaRegistry:
    """What every caller of the port SchemaRegistry may rely on."""

    def test_a_registered_schema_is_found_by_its_id(self, registry: SchemaRegistry) -> None:
        schema_id = registry.register(EVENTS, order_placed(TOTAL))
        assert registry.schema(schema_id) == json.loads(order_placed(TOTAL))
        assert registry.lookup(EVENTS, order_placed(TOTAL)) == schema_id

    def test_registering_twice_changes_nothing(self, registry: SchemaRegistry) -> None:
        first = registry.register(EVENTS, order_placed())
        assert registry.register(EVENTS, json.dumps(json.loads(order_placed()), indent=4)) == first

    def test_the_same_schema_has_one_id_under_all_subjects(self, registry: SchemaRegistry) -> None:
        first = registry.register("a-value", order_placed())
        assert registry.register("b-value", order_placed()) == first

    def test_another_schema_has_another_id(self, registry: SchemaRegistry) -> None:
        first = registry.register(EVENTS, order_placed())
        assert registry.register(EVENTS, order_placed(NOTE)) != first

    def test_what_was_not_registered_is_not_found(self, registry: SchemaRegistry) -> None:
        assert registry.lookup(EVENTS, order_placed()) is None
        registry.register(EVENTS, order_placed())
        assert registry.lookup(EVENTS, order_placed(NOTE)) is None
        assert registry.lookup("other-value", order_placed()) is None

    def test_an_unknown_id_is_a_codec_error(self, registry: SchemaRegistry) -> None:
        with pytest.raises(CodecError):
            registry.schema(999_999)

    def test_an_incompatible_event_is_refused_and_leaves_nothing(
        self, registry: SchemaRegistry
    ) -> None:
        registry.register(EVENTS, order_placed())
        assert any("total" in message for message in registry.check(EVENTS, order_placed(TOTAL)))
        with pytest.raises(RegistryRefusal) as refused:
            registry.register(EVENTS, order_placed(TOTAL))
        assert refused.value.code == 409
        assert registry.lookup(EVENTS, order_placed(TOTAL)) is None

    def test_a_compatible_event_passes_the_check(self, registry: SchemaRegistry) -> None:
        assert registry.check(EVENTS, order_placed()) == []
        registry.register(EVENTS, order_placed())
        assert registry.check(EVENTS, order_placed(NOTE)) == []

    def test_a_schema_that_breaks_a_rule_is_refused(self, registry: SchemaRegistry) -> None:
        recursive = order_placed({"name": "next", "type": ["null", "OrderPlaced"]})
        assert any("recursive" in message for message in registry.check(EVENTS, recursive))
        with pytest.raises(CodecError, match="recursive"):
            registry.register(EVENTS, recursive)

    def test_a_schema_that_was_handed_out_may_be_changed(self, registry: SchemaRegistry) -> None:
        schema_id = registry.register(EVENTS, order_placed())
        handed_out = registry.schema(schema_id)
        assert isinstance(handed_out, dict)
        handed_out.clear()
        assert registry.schema(schema_id) == json.loads(order_placed())


class Rest:
    """Plain requests, as any client of Confluent's registry sends them."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, timeout=30)

    def __call__(self, method: str, path: str, body: object = None) -> Answer:
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": MEDIA_TYPE}
        response = self.http.request(method, path, content=content, headers=headers)
        assert response.headers["content-type"] == MEDIA_TYPE
        return response.status_code, response.json()

    def register(self, subject: str, schema: str) -> Answer:
        return self("POST", f"/subjects/{subject}/versions", {"schema": schema})

    def error(self, method: str, path: str, body: object = None) -> tuple[int, int]:
        status, answer = self(method, path, body)
        assert isinstance(answer, dict) and set(answer) == {"error_code", "message"}
        return status, answer["error_code"]


@pytest.fixture
def rest(logs: Logs) -> Iterator[Rest]:
    with running(logs()) as url:
        rest = Rest(url)
        with rest.http:
            yield rest


class TestTheRestApi:
    """Status codes, error codes and shapes of answers."""

    def test_a_schema_is_registered_and_read_in_every_way(self, rest: Rest) -> None:
        status, registered = rest.register("s", '{"type": "string"}')
        assert status == 200 and isinstance(registered, dict)
        guid = registered["guid"]
        assert registered == {"id": 1, "version": 1, "guid": guid}
        described = {
            "subject": "s",
            "version": 1,
            "id": 1,
            "guid": guid,
            "schema": '"string"',
        }
        stored = {"schema": '"string"', "guid": guid}
        assert rest("GET", "/subjects") == (200, ["s"])
        assert rest("GET", "/subjects/s/versions") == (200, [1])
        assert rest("GET", "/subjects/s/versions/1") == (200, described)
        assert rest("GET", "/subjects/s/versions/latest") == (200, described)
        assert rest("GET", "/subjects/s/versions/latest/schema") == (200, "string")
        assert rest("POST", "/subjects/s", {"schema": '"string"'}) == (200, described)
        assert rest("GET", "/schemas/ids/1") == (200, stored)
        assert rest("GET", "/schemas/ids/1/versions") == (
            200,
            [{"subject": "s", "version": 1}],
        )
        assert rest("GET", "/schemas/ids/1/subjects") == (200, ["s"])
        assert rest("GET", f"/schemas/guids/{guid}") == (200, stored)
        assert rest("GET", "/schemas/types") == (200, ["AVRO"])

    def test_what_is_not_there_has_its_error_code(self, rest: Rest) -> None:
        rest.register("s", '"string"')
        assert rest.error("GET", "/subjects/none/versions") == (404, 40401)
        assert rest.error("GET", "/subjects/none/versions/1") == (404, 40401)
        assert rest.error("GET", "/subjects/s/versions/2") == (404, 40402)
        assert rest.error("GET", "/schemas/ids/2") == (404, 40403)
        assert rest.error("GET", "/schemas/guids/none") == (404, 40403)
        assert rest.error("POST", "/subjects/s", {"schema": '"int"'}) == (404, 40403)
        assert rest.error("POST", "/subjects/none", {"schema": '"int"'}) == (404, 40401)
        assert rest.error("DELETE", "/subjects/none") == (404, 40401)
        assert rest.error("GET", "/config/s") == (404, 40408)
        assert rest.error("GET", "/mode/s") == (404, 40409)
        assert rest.error("GET", "/associations/resources/-/s") == (404, 404)
        assert rest.error("GET", "/subjects/s/versions/0") == (422, 42202)
        assert rest.error("GET", "/subjects/s/versions/x") == (422, 42202)
        assert rest.error("PATCH", "/subjects") == (405, 405)

    def test_a_subject_is_deleted_softly_and_then_for_good(self, rest: Rest) -> None:
        rest.register("s", '"string"')
        assert rest.error("DELETE", "/subjects/s?permanent=true") == (404, 40405)
        assert rest("DELETE", "/subjects/s") == (200, [1])
        assert rest("GET", "/subjects") == (200, [])
        assert rest("GET", "/subjects?deleted=true") == (200, ["s"])
        assert rest("GET", "/schemas/ids/1")[0] == 200
        assert rest.error("DELETE", "/subjects/s") == (404, 40404)
        assert rest("DELETE", "/subjects/s?permanent=true") == (200, [1])
        assert rest.error("GET", "/schemas/ids/1") == (404, 40403)

    def test_a_version_is_deleted_softly_and_then_for_good(self, rest: Rest) -> None:
        rest.register("s", '"int"')
        rest.register("s", '"long"')
        assert rest.error("DELETE", "/subjects/s/versions/1?permanent=true") == (
            404,
            40407,
        )
        assert rest("DELETE", "/subjects/s/versions/1") == (200, 1)
        assert rest.error("DELETE", "/subjects/s/versions/1") == (404, 40406)
        assert rest("GET", "/subjects/s/versions") == (200, [2])
        assert rest("DELETE", "/subjects/s/versions/1?permanent=true") == (200, 1)
        assert rest("GET", "/subjects/s/versions?deleted=true") == (200, [2])

    def test_levels_are_configured_per_subject_and_for_all(self, rest: Rest) -> None:
        assert rest("GET", "/config") == (200, {"compatibilityLevel": "BACKWARD"})
        assert rest("GET", f"/config/{EVENTS}?defaultToGlobal=true") == (
            200,
            {"compatibilityLevel": "FULL_TRANSITIVE"},
        )
        assert rest("PUT", "/config", {"compatibility": "none"})[0] == 200
        assert rest("PUT", "/config/s", {"compatibility": "FULL"}) == (
            200,
            {"compatibility": "FULL"},
        )
        assert rest("GET", "/config/s") == (200, {"compatibilityLevel": "FULL"})
        assert rest.error("PUT", "/config/s", {"compatibility": "MOST"}) == (422, 42203)
        assert rest("DELETE", "/config/s") == (200, {"compatibilityLevel": "FULL"})
        assert rest("GET", "/config/s?defaultToGlobal=true") == (
            200,
            {"compatibilityLevel": "NONE"},
        )

    def test_a_subject_that_is_read_only_takes_no_schema(self, rest: Rest) -> None:
        assert rest("GET", "/mode") == (200, {"mode": "READWRITE"})
        assert rest("PUT", "/mode/s", {"mode": "READONLY"}) == (
            200,
            {"mode": "READONLY"},
        )
        body = {"schema": '"int"'}
        assert rest.error("POST", "/subjects/s/versions", body) == (422, 42205)
        assert rest("DELETE", "/mode/s") == (200, {"mode": "READONLY"})
        assert rest.register("s", '"int"')[0] == 200
        assert rest.error("PUT", "/mode", {"mode": "WRITEONLY"}) == (422, 42204)

    def test_compatibility_is_judged_without_registering(self, rest: Rest) -> None:
        path = f"/compatibility/subjects/{EVENTS}/versions"
        rest.register(EVENTS, order_placed())
        bad, good = {"schema": order_placed(TOTAL)}, {"schema": order_placed(NOTE)}
        assert rest("POST", path, good) == (200, {"is_compatible": True})
        assert rest("POST", f"{path}/latest", bad) == (200, {"is_compatible": False})
        status, answer = rest("POST", f"{path}/1?verbose=true", bad)
        assert status == 200 and isinstance(answer, dict)
        assert "OrderPlaced.total" in answer["messages"][0]
        assert rest.error("POST", f"{path}/9", good) == (404, 40402)
        assert rest.error("POST", f"/subjects/{EVENTS}/versions", bad) == (409, 409)

    @pytest.mark.parametrize(
        "schema",
        [
            "",
            "{",
            '{"type":"strnig"}',
            "[" * 100_000,
            order_placed(TOTAL, TOTAL),
            order_placed({"name": "n", "type": ["null", "OrderPlaced"], "default": None}),
            order_placed({"name": "n", "type": {"type": "array", "items": "null"}}),
            order_placed({"name": "n", "type": "int", "default": "7"}),
            order_placed({"name": "n", "type": "int", "doc": "x" * 300_000}),
        ],
    )
    def test_a_schema_that_breaks_a_rule_is_invalid(self, rest: Rest, schema: str) -> None:
        body = {"schema": schema}
        assert rest.error("POST", "/subjects/s/versions", body) == (422, 42201)
        assert rest.error("POST", "/subjects/s", body) == (422, 42201)
        assert rest.error("POST", "/compatibility/subjects/s/versions", body) == (
            422,
            42201,
        )

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"[]", 422),
            (b"{}", 422),
            (b'{"schema": 7}', 422),
            (b'{"schema": "\\"int\\"", "is_admin": true}', 422),
            (b'{"schema": "\\"int\\"", "schema": "\\"int\\""}', 400),
            (b'{"schema": NaN}', 400),
            (b'{"schema": 1e400}', 400),
            (b'{"schema": "\\ud800"}', 400),
            (b'{"schema": "\xff"}', 400),
            (b"[" * 100_000, 400),
            (b"9" * 5_000, 400),
            (b'{"schema": "' + b"x" * 1_100_000 + b'"}', 413),
            (b'{"schema": "\\"int\\"", "schemaType": "PROTOBUF"}', 422),
            (b'{"schema": "\\"int\\"", "references": [{"name": "x"}]}', 422),
            (b'{"schema": "\\"int\\"", "id": 7}', 422),
        ],
    )
    def test_a_bad_body_is_refused_and_not_echoed(
        self, rest: Rest, body: bytes, status: int
    ) -> None:
        headers = {"Content-Type": MEDIA_TYPE}
        answer = rest.http.post("/subjects/s/versions", content=body, headers=headers)
        assert answer.status_code == status
        assert len(answer.content) < 300
        assert rest("GET", "/subjects") == (200, [])

    def test_another_media_type_is_refused(self, rest: Rest) -> None:
        headers = {"Content-Type": "text/xml"}
        answer = rest.http.post("/subjects/s/versions", content=b"<a/>", headers=headers)
        assert answer.status_code == 415

    def test_a_subject_with_a_control_character_is_refused(self, rest: Rest) -> None:
        body = {"schema": '"int"'}
        assert rest.error("POST", "/subjects/a%00b/versions", body) == (422, 42208)
        assert rest.error("GET", f"/subjects/{'x' * 10_000}/versions") == (422, 42208)

    def test_a_running_registry_says_how_it_is(self, rest: Rest) -> None:
        rest.register("s", '"int"')
        assert rest.http.get("/livez").status_code == 200
        assert rest.http.get("/readyz").status_code == 200
        metrics = rest.http.get("/metrics").text
        assert "tidelog_registry_schemas 1.0" in metrics

    def test_a_registry_that_starts_again_finds_everything(self, logs: Logs) -> None:
        with running(logs()) as url:
            before = Rest(url)
            before.register("s", '"int"')
            before.register("s", '"long"')
            before("DELETE", "/subjects/s/versions/1")
            before("PUT", "/config/s", {"compatibility": "FULL"})
            before.http.close()
        with running(logs()) as url:
            after = Rest(url)
            assert after("GET", "/subjects/s/versions?deleted=true") == (200, [1, 2])
            assert after("GET", "/subjects/s/versions") == (200, [2])
            assert after("GET", "/config/s") == (200, {"compatibilityLevel": "FULL"})
            status, registered = after.register("t", '"double"')
            assert status == 200 and isinstance(registered, dict) and registered["id"] == 3
            after.http.close()

    def test_two_instances_never_give_one_id_to_two_schemas(self, logs: Logs) -> None:
        with running(logs()) as one, running(logs()) as two:
            answers: list[Answer] = []

            def write(url: str, start: int) -> None:
                rest = Rest(url)
                with rest.http:
                    for size in range(start, start + 5):
                        schema = json.dumps({"type": "fixed", "name": f"F{size}", "size": size})
                        answers.append(rest.register(f"s{size}", schema))

            threads = [
                threading.Thread(target=write, args=(url, start))
                for url, start in [(one, 1), (two, 101)]
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        ids = [answer["id"] for _, answer in answers if isinstance(answer, dict) and "id" in answer]
        assert len(ids) == len(set(ids))
        assert all(status in (200, 503) for status, _ in answers)
        with running(logs()) as url:
            rest = Rest(url)
            _, subjects = rest("GET", "/subjects")
            assert isinstance(subjects, list) and len(subjects) >= len(ids)
            rest.http.close()
