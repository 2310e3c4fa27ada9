"""The command service as a process, on a real Kafka: what an acknowledgement is worth."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from confluent_kafka import Producer

from schemas import INVENTORY
from schemas.inventory import ReceiveStock, SellStock
from tests.integration.command_stack import (
    SESSION_TIMEOUT_MS,
    CommandStack,
    faults,
    receive,
    until_answered,
)
from tests.service_process import running
from tidelog.canonical import command_hash
from tidelog.codec import Codec
from tidelog.ids import utc_now, uuid7
from tidelog.message import Command
from tidelog.partitioner import partition_of
from tidelog.registry.client import RegistryClient
from tidelog.wire import CommandMetadata, command_headers

PARTITIONS = 2


@pytest.fixture(scope="module")
def stack(
    kafka: str, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandStack]:
    """Every test has its own stock items and instances."""
    folder = tmp_path_factory.mktemp("command-service")
    with CommandStack.made(kafka, postgres, folder, PARTITIONS) as made:
        yield made


def test_a_killed_service_keeps_its_word_and_repeats_its_first_answer(stack: CommandStack) -> None:
    service = stack.command_service()
    with running(service):
        # given acknowledged commands
        first = [receive(service.url, f"mug-{n}", n + 1, f"key-{n}").json() for n in range(20)]
        # when the process is killed and started again
        service.kill()
        service.start()
        service.wait_ready()
        # then the same keys have the same answers, marked as replays, and nothing is there twice
        again = [receive(service.url, f"mug-{n}", n + 1, f"key-{n}").json() for n in range(20)]
    assert again == [{**answer, "replayed": True} for answer in first]
    events = stack.events(*(f"mug-{n}" for n in range(20)))
    assert len(events) == 20
    assert faults(events, first) == []


def test_without_its_checkpoint_a_service_rebuilds_everything_from_the_log(
    stack: CommandStack,
) -> None:
    service = stack.command_service()
    with running(service):
        first = [receive(service.url, "pot", 2, f"key-{n}").json() for n in range(10)]
    # given a checkpoint that is gone
    fresh = stack.command_service(instance="fresh")
    with running(fresh):
        # when a known key and a new one come in
        again = receive(fresh.url, "pot", 2, "key-3").json()
        new = receive(fresh.url, "pot", 2, "key-new").json()
    # then the table of seen commands and the versions are there again
    assert again == {**first[3], "replayed": True}
    assert new["version"] == 11
    assert faults(stack.events("pot"), [*first, new]) == []


def test_a_corrupt_checkpoint_is_thrown_away(stack: CommandStack) -> None:
    service = stack.command_service()
    with running(service):
        first = receive(service.url, "cup", 2, "key").json()
    for table in (stack.folder / "state-1").rglob("CURRENT"):
        table.write_bytes(b"rubbish")
    with running(service):
        assert receive(service.url, "cup", 2, "key").json() == {**first, "replayed": True}


def test_a_paused_writer_is_fenced_and_appends_nothing_when_it_wakes(stack: CommandStack) -> None:
    zombie = stack.command_service("1")
    heir = stack.command_service("2")
    with running(zombie):
        answers = [until_answered(zombie.url, "tray", f"before-{n}") for n in range(5)]
        # given a writer that is paused for longer than its session lasts
        zombie.send(signal.SIGSTOP)
        heir.start()
        try:
            heir.wait_ready(SESSION_TIMEOUT_MS / 1000 + 30)
            answers += [until_answered(heir.url, "tray", f"during-{n}") for n in range(5)]
            # when it wakes, and is asked at once for what it cannot know
            zombie.send(signal.SIGCONT)
            stale = receive(zombie.url, "tray", 1, "from-the-zombie", timeout=20)
            no_event = httpx.post(
                f"{zombie.url}/orders/never/cancel-order", json={"reason": "x"}, timeout=20
            )
            # then it answers 503, never from memory
            both = [heir.url, zombie.url]  # the group may give it partitions back
            answers += [until_answered(both, "tray", f"after-{n}") for n in range(5)]
        finally:
            heir_code = heir.stop()
    assert heir_code == 0
    assert stale.status_code in (201, 503), stale.text
    assert no_event.status_code in (409, 503), no_event.text
    acknowledged = [*answers, stale.json()] if stale.status_code == 201 else answers
    events = stack.events("tray")
    assert faults(events, acknowledged) == []
    assert len(events) == len(acknowledged)


def test_a_clean_stop_hands_the_partitions_over_at_once(stack: CommandStack) -> None:
    # given sessions that last longer than this test waits: only leaving the group hands over
    patient = {"session_timeout_ms": 120_000}
    first, second = stack.command_service("1", **patient), stack.command_service("2", **patient)
    with running(first):
        before = receive(first.url, "urn", 1, "a").json()
        assert first.stop() == 0
        with running(second):
            after = until_answered(second.url, "urn", "b")
    assert (before["version"], after["version"]) == (1, 2)


def send_command(stack: CommandStack, message: Command, command_id: str | None = None) -> str:
    """Append a command to the topic, as a saga or any Kafka producer would."""
    registry = RegistryClient(stack.registry.url)
    codec = Codec([INVENTORY], registry, stack.namespace)
    codec.prepare()
    registry.close()
    name = codec.full_name_of(type(message))
    key: str = getattr(message, INVENTORY.key)
    metadata = CommandMetadata(
        command_id=command_id or uuid7(),
        type=name,
        subject=key,
        sent_at=utc_now(),
        correlation_id="a-correlation",
        causation_id="an-event",
        command_hash=command_hash(name, message),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    produce(stack, key, codec.encode(message), command_headers(metadata, "/inventory"))
    return metadata.command_id


def produce(stack: CommandStack, key: str, value: bytes, headers: Any) -> None:
    producer = Producer({"bootstrap.servers": stack.kafka})
    topic = f"{stack.namespace}inventory.commands"
    partition = partition_of(key, PARTITIONS)
    producer.produce(topic, value, key.encode(), partition, headers=headers)
    assert producer.flush(20) == 0


def operation(url: str, operation_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
    """Wait until the operation is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = httpx.get(f"{url}/operations/{operation_id}", timeout=10)
        if answer.status_code == 200 and answer.json()["status"] != "running":
            body: dict[str, Any] = answer.json()
            return body
        time.sleep(0.05)
    raise AssertionError(f"operation {operation_id} is not over: {answer.text}")


def test_commands_of_the_topic_take_the_same_path_and_are_applied_once(stack: CommandStack) -> None:
    service = stack.command_service()
    with running(service):
        # when a command arrives twice by the topic
        command_id = send_command(stack, ReceiveStock(sku="jar", quantity=4))
        send_command(stack, ReceiveStock(sku="jar", quantity=4), command_id)
        done = operation(service.url, command_id)
        last = receive(service.url, "jar", 1).json()
    # then it has one outcome, and its event carries its correlation
    assert done["status"] == "done"
    assert done["result"]["events"][0]["type"] == "StockReceived"
    assert last["version"] == 2
    event = stack.events("jar")[0]
    assert event.headers["ce_correlationid"] == "a-correlation"
    assert event.headers["ce_causationid"] == command_id


def test_a_refusal_of_the_topic_is_an_outcome_and_blocks_nothing(stack: CommandStack) -> None:
    service = stack.command_service()
    with running(service):
        # given a command that breaks a rule, and rubbish, before a good command of the same key
        refused = send_command(stack, SellStock(sku="tin", order_id="never-reserved"))
        produce(stack, "tin", b"rubbish", [])
        good = send_command(stack, ReceiveStock(sku="tin", quantity=4))
        # then the good one is done, and the refusal can be read
        assert operation(service.url, good)["status"] == "done"
        outcome = operation(service.url, refused)
    assert outcome["status"] == "refused"
    assert outcome["problem"]["type"] == "/problems/stock-not-reserved"
    assert [event.headers["ce_type"] for event in stack.events("tin")] == [
        "tidelog.inventory.StockReceived"
    ]


def test_respond_async_ends_in_the_same_answer_as_a_plain_request(stack: CommandStack) -> None:
    service = stack.command_service()
    with running(service):
        accepted = respond_async(service.url, "bag", "later")
        assert accepted.status_code == 202, accepted.text
        done = operation(service.url, accepted.headers["location"].removeprefix("/operations/"))
        plain = receive(service.url, "bag", 3, "later").json()
    assert done["status"] == "done"
    assert plain == {**done["result"], "replayed": True}


def test_an_operation_is_its_callers_and_what_sagas_send_is_nobodys(stack: CommandStack) -> None:
    service = stack.command_service()
    with running(service):
        accepted = respond_async(service.url, "box", "k", **{"X-Tidelog-Caller": "user:ada"})
        adas = accepted.json()["id"]
        nobodys = send_command(stack, ReceiveStock(sku="box", quantity=1))
        for each in (adas, nobodys):
            assert operation(service.url, each)["status"] == "done"

        def told(operation_id: str, only_of: str) -> int:
            url = f"{service.url}/operations/{operation_id}"
            return httpx.get(url, headers={"X-Tidelog-Only-Of": only_of}, timeout=10).status_code

        assert told(adas, "user:ada") == 200
        assert told(adas, "user:bob") == told(adas, "") == 404
        assert told(nobodys, "user:ada") == told(nobodys, "") == 404


def respond_async(url: str, sku: str, key: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{url}/inventory/{sku}/receive-stock",
        json={"quantity": 3},
        headers={"Prefer": "respond-async", "Idempotency-Key": key, **headers},
        timeout=20,
    )
