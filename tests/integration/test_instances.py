"""Several command services behave as one: whoever is asked, the answer is the owner's."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2 as httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.integration.command_stack import (
    SESSION_TIMEOUT_MS,
    CommandStack,
    faults,
    grpc_of,
    receive,
    until_answered,
)
from tests.service_process import ServiceProcess, running
from tests.torture.instances import Run, describe, read_files, read_log
from tidelog.embedded.stack import DRAIN_MS
from tidelog.grpc import commands_pb2
from tidelog.partitioner import partition_of
from tidelog.settings import Settings

PARTITIONS = 4
SEED = 7
KILLS = 2
PAUSE_S = 8.0
"""Longer than the session of these instances, and what the others need to take over."""

EXECUTE = "/tidelog.commands.v1.CommandService/Execute"
EXECUTE_BATCH = "/tidelog.commands.v1.CommandService/ExecuteBatch"


@pytest.fixture(scope="module")
def stack(
    kafka: str, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandStack]:
    folder = tmp_path_factory.mktemp("instances")
    with CommandStack.made(kafka, postgres, folder, PARTITIONS) as made:
        yield made


@pytest.fixture(scope="module")
def three(stack: CommandStack) -> Iterator[list[ServiceProcess]]:
    """Three instances, each of which owns something."""
    instances = [stack.command_service(str(number), drain_ms=DRAIN_MS) for number in (1, 2, 3)]
    with running(*instances):
        until_all_own(instances)
        yield instances


def owned(instance: ServiceProcess) -> set[tuple[str, str]]:
    """The partitions that an instance serves now."""
    answer = instance.get("/metrics")
    lines = [] if answer is None else answer.text.splitlines()
    return {
        (line.split('"')[1], line.split('"')[3])
        for line in lines
        if line.startswith("tidelog_partition_serving{") and line.endswith(" 1.0")
    }


def until_all_own(instances: list[ServiceProcess], timeout_s: float = 60) -> None:
    """Wait until every partition of the stock is served, and every instance serves something."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = [owned(instance) for instance in instances]
        stock = {place for places in found for place in places if place[0] == "inventory"}
        if all(found) and len(stock) == PARTITIONS:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def items(prefix: str) -> list[str]:
    """One stock item for each partition."""
    names = [f"{prefix}-{number}" for number in range(100)]
    found = {partition_of(name, PARTITIONS): name for name in names}
    assert len(found) == PARTITIONS
    return list(found.values())


def test_every_instance_answers_for_every_item_as_its_owner_would(
    stack: CommandStack, three: list[ServiceProcess]
) -> None:
    answers = []
    for sku in items("mug"):
        # when each instance is sent one command for the item
        for number, instance in enumerate(three):
            answers.append(receive(instance.url, sku, 1, f"{sku}-{number}").json())
        # then a repetition at any of them is the first answer
        for instance in three:
            again = receive(instance.url, sku, 1, f"{sku}-0")
            assert again.status_code == 201
            assert again.json() == {**answers[-3], "replayed": True}
            assert again.headers["etag"] == '"1"'
    assert [answer["version"] for answer in answers] == [1, 2, 3] * PARTITIONS
    assert faults(stack.events(*items("mug")), answers) == []


def test_conditions_and_problems_are_the_same_whoever_answers(
    three: list[ServiceProcess],
) -> None:
    for sku in items("cup"):
        assert receive(three[0].url, sku, 1, f"{sku}-a").status_code == 201
        stale, reused, rule, fresh = [], [], [], []
        for number, instance in enumerate(three):
            path = f"{instance.url}/inventory/{sku}"
            with httpx.Client(timeout=20) as http:
                stale.append(
                    http.post(
                        f"{path}/receive-stock", json={"quantity": 1}, headers={"If-Match": '"9"'}
                    )
                )
                reused.append(receive(instance.url, sku, 2, f"{sku}-a"))
                rule.append(http.post(f"{path}/sell-stock", json={"order_id": "never"}))
                fresh.append(
                    http.post(
                        f"{path}/receive-stock",
                        json={"quantity": 1},
                        headers={"If-Match": f'"{number + 1}"'},
                    )
                )
        assert [answer.status_code for answer in stale] == [412] * 3
        assert {answer.json()["actual_version"] for answer in stale} == {1, 2, 3}
        assert {problem(answer) for answer in reused} == {(422, "idempotency-key-reused")}
        assert {problem(answer) for answer in rule} == {(409, "stock-not-reserved")}
        assert len({answer.json()["detail"] for answer in rule}) == 1
        assert [answer.status_code for answer in fresh] == [201] * 3


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


def test_many_commands_in_one_request_are_answered_in_order_by_any_instance(
    three: list[ServiceProcess],
) -> None:
    skus = items("tray")
    for number, instance in enumerate(three):
        lines = [
            {"command": "inventory/receive-stock", "id": sku, "data": {"quantity": 1}}
            for _ in range(5)
            for sku in skus
        ]
        lines.insert(
            3, {"command": "inventory/sell-stock", "id": skus[0], "data": {"order_id": "x"}}
        )
        answer = httpx.post(
            f"{instance.url}/commands",
            content="".join(json.dumps(line) + "\n" for line in lines),
            headers={"content-type": "application/x-ndjson"},
            timeout=30,
        )
        found = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["status"] for line in found] == [201] * 3 + [409] + [201] * 17
        versions = [line["result"]["version"] for line in found if line["status"] == 201]
        expected = [number * 5 + turn for turn in range(1, 6) for _ in skus]
        assert versions == expected


def call(channel: grpc.Channel, **fields: Any) -> commands_pb2.Result:
    execute = channel.unary_unary(
        EXECUTE,
        request_serializer=commands_pb2.Command.SerializeToString,
        response_deserializer=commands_pb2.Result.FromString,
    )
    found: commands_pb2.Result = execute(commands_pb2.Command(**fields), timeout=20)
    return found


def problem_in(error: Any) -> commands_pb2.Problem:
    metadata: dict[str, bytes] = dict(error.trailing_metadata())
    return commands_pb2.Problem.FromString(metadata["problem-bin"])


def test_a_client_by_grpc_gets_what_one_by_http_gets(three: list[ServiceProcess]) -> None:
    for sku in items("pot"):
        by_http = receive(three[0].url, sku, 3, f"{sku}-key").json()
        for instance in three:
            with grpc.insecure_channel(grpc_of(instance)) as channel:
                result = call(
                    channel,
                    command="inventory/receive-stock",
                    id=sku,
                    data=b'{"quantity":3}',
                    idempotency_key=f"{sku}-key",
                )
                events = [{"type": e.type, "position": e.position} for e in result.events]
                assert (result.replayed, result.version, events) == (True, 1, by_http["events"])
                assert (result.token, result.id) == (by_http["token"], sku)
                with pytest.raises(grpc.RpcError) as refused:
                    call(
                        channel,
                        command="inventory/sell-stock",
                        id=sku,
                        data=b'{"order_id":"never"}',
                    )
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                told = problem_in(refused.value)
                assert (told.status, told.type) == (409, "/problems/stock-not-reserved")
                assert told.instance == f"/inventory/{sku}/sell-stock"


def test_a_batch_by_grpc_answers_each_command_alone_and_one_item_in_order(
    three: list[ServiceProcess],
) -> None:
    skus = items("jar")
    good = [
        commands_pb2.Command(command="inventory/receive-stock", id=sku, data=b'{"quantity":1}')
        for _ in range(3)
        for sku in skus
    ]
    bad = [
        commands_pb2.Command(command="inventory/no-such", id="x", data=b"{}"),
        commands_pb2.Command(command="inventory/receive-stock", id="x", data=b'{"quantity":0}'),
        commands_pb2.Command(command="inventory/receive-stock", id="x", data=b"{"),
    ]
    with grpc.insecure_channel(grpc_of(three[1])) as channel:
        execute = channel.unary_unary(
            EXECUTE_BATCH,
            request_serializer=commands_pb2.Batch.SerializeToString,
            response_deserializer=commands_pb2.Answers.FromString,
        )
        found = execute(commands_pb2.Batch(commands=[*bad, *good]), timeout=20).answers
    assert [answer.problem.status for answer in found[:3]] == [404, 422, 400]
    versions = [answer.result.version for answer in found[3:]]
    assert versions == [1] * 4 + [2] * 4 + [3] * 4


def test_health_and_reflection_are_the_standard_ones(three: list[ServiceProcess]) -> None:
    with grpc.insecure_channel(grpc_of(three[0])) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        state = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
        )
        names = {each.name for each in next(reflected).list_services_response.service}
    assert state.status == health_pb2.HealthCheckResponse.SERVING
    assert "tidelog.commands.v1.CommandService" in names


def test_an_owner_that_was_paused_appends_nothing_of_what_was_forwarded_to_it(
    stack: CommandStack, three: list[ServiceProcess]
) -> None:
    until_all_own(three)
    sku = items("urn")[0]
    place = ("inventory", str(partition_of(sku, PARTITIONS)))
    zombie = next(instance for instance in three if place in owned(instance))
    urls = [instance.url for instance in three if instance is not zombie]
    answers = [until_answered(urls, sku, "before")]
    # given an owner that is paused for longer than its session lasts, with commands on their way
    zombie.send(signal.SIGSTOP)
    try:
        answers += [until_answered(urls, sku, f"during-{n}") for n in range(3)]
    finally:
        zombie.send(signal.SIGCONT)
    # when it wakes and finds them, and is asked more
    answers += [until_answered([zombie.url, *urls], sku, f"after-{n}") for n in range(5)]
    # then each is in the log once, by whoever owned the item at its time
    until_all_own(three)
    again = [until_answered(zombie.url, sku, key) for key in ("before", "during-0", "after-4")]
    assert again == [{**answers[n], "replayed": True} for n in (0, 1, 8)], "the first answers"
    assert len(stack.events(sku)) == len(answers) == 9
    first_answers = [{**answer, "replayed": False} for answer in answers]
    assert faults(stack.events(sku), first_answers) == []


class Processes:
    """The fleet of a run: processes of the test itself."""

    def __init__(self, instances: list[ServiceProcess]) -> None:
        self._instances = {instance.url: instance for instance in instances}

    def urls(self) -> list[str]:
        return list(self._instances)

    async def restart(self, url: str) -> None:
        instance = self._instances[url]
        assert await asyncio.to_thread(instance.stop) == 0, instance.tail()
        instance.start()

    async def kill(self, url: str) -> float:
        instance = self._instances[url]
        instance.kill()
        killed_at = time.monotonic()
        instance.start()
        return killed_at

    def pause(self, url: str) -> None:
        self._instances[url].send(signal.SIGSTOP)

    def resume(self, url: str) -> None:
        self._instances[url].send(signal.SIGCONT)


async def test_restarts_in_turn_are_not_felt_and_kills_and_pauses_lose_and_double_nothing(
    stack: CommandStack, three: list[ServiceProcess]
) -> None:
    # given clients of any instance
    run = Run(Processes(three), SEED, KILLS, clients=16, pause_s=PAUSE_S)
    # when each is restarted in turn, some are killed, and one is paused and goes on
    await run.play()
    files = read_files(stack.kafka, stack.namespace)
    result = run.check(read_log(stack.kafka, stack.registry.url, stack.namespace), files)
    print(describe(result, 16, Settings(session_timeout_ms=SESSION_TIMEOUT_MS)))
    # then no restart failed a request, and an independent reader finds every answer once
    assert result.faults == [], f"seed {SEED}"
    assert (result.restarts, result.kills, result.felt) == (3, KILLS, 0)
    assert result.answers
    # and the broker's files, where they are here, hold nothing of one that was fenced
    assert result.zombie is not None and result.zombie.held
    assert not files or (result.zombie.late == 0 and result.tenures > len(files))
