"""Commands of the topic: in their order, each with an outcome, none stopped by another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.unit.writer_bench import Open, doors
from tidelog.engine.batch import Request
from tidelog.engine.command import Outcome, Recorded, Refused, Unchanged
from tidelog.engine.ports import StoredRecord
from tidelog.errors import Overloaded, Unavailable
from tidelog.kafka import command_inbox
from tidelog.kafka.command_inbox import CommandInbox, TopicCommand
from tidelog.memory import MemoryCodec
from tidelog.message import Message
from tidelog.wire import CommandMetadata, command_headers

DONE = Recorded(version=1, events=(("Opened", 1),))
codec = MemoryCodec(doors.command_types)
LATER = Refused(Unavailable("later"))


def record(offset: int, key: str = "anna", command_id: str = "") -> StoredRecord:
    metadata = CommandMetadata(
        command_id=command_id or f"c{offset}",
        type="doors.Open",
        subject=key,
        sent_at="",
        correlation_id="k",
        causation_id="k",
        command_hash="",
        traceparent="",
    )
    headers: list[tuple[str, bytes | None]] = [*command_headers(metadata, "/doors")]
    return StoredRecord(offset, key.encode(), codec.encode(Open(door_id=key)), headers)


class Bench:
    """An inbox between a partition and an outcome store that are driven by hand."""

    def __init__(self) -> None:
        self.offered: list[Request] = []
        self.refuses: Exception | None = None
        self.unreadable: Exception | None = None
        self.poison = ""
        self.kept: list[TopicCommand] = []
        self.next_offset = 0
        self.flowing = True
        self.inbox = CommandInbox(
            context=doors,
            partition=0,
            codec=self,
            submit=self.submit,
            outcomes=self,
            processed=self.processed,
            flow=self.flow,
        )

    def encode(self, message: Message) -> bytes:
        return codec.encode(message)

    def decode(self, value: bytes) -> Message:
        if self.unreadable:
            raise self.unreadable
        return codec.decode(value)

    def submit(self, request: Request) -> None:
        if self.refuses:
            raise self.refuses
        self.offered.append(request)

    async def finish(self, _context: str, _partition: int, done: Sequence[TopicCommand]) -> None:
        if any(
            one.outcome and one.envelope and one.envelope.command_id == self.poison for one in done
        ):
            raise ValueError("it does not fit the table")
        self.kept += done

    def processed(self, next_offset: int) -> None:
        self.next_offset = next_offset

    def flow(self, on: bool) -> None:
        self.flowing = on

    @property
    def waiting(self) -> list[str]:
        """What the partition would decide next."""
        return [one.envelope.command_id for one in self.offered if not one.is_abandoned()]

    def answer(self, command_id: str, outcome: Outcome) -> None:
        request = next(one for one in self.offered if one.envelope.command_id == command_id)
        self.offered.remove(request)
        request.reply(outcome)


def run(scenario: Callable[[Bench], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_inbox, "RETRY_MIN_S", 0.001)

    async def whole() -> None:
        bench = Bench()
        await scenario(bench)
        bench.inbox.stop()

    asyncio.run(whole())


async def soon(true: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


def test_a_command_that_must_wait_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.inbox.receive([record(0), record(1), record(2)])
        bench.answer("c0", DONE)
        bench.answer("c1", LATER)
        assert bench.waiting == []
        bench.refuses = Overloaded("full")
        bench.inbox.receive([record(3)])
        await asyncio.sleep(0.01)
        bench.refuses = None
        await soon(lambda: bench.waiting == ["c1", "c2", "c3"])

    run(scenario, monkeypatch)


def test_an_attempt_that_was_given_up_counts_only_by_its_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.inbox.receive([record(0), record(1), record(2)])
        bench.answer("c0", LATER)
        bench.answer("c1", Unchanged(version=1, sequence=1))
        bench.answer("c2", DONE)
        await soon(lambda: bench.waiting == ["c0", "c1"])
        bench.answer("c0", DONE)
        bench.answer("c1", DONE)
        await soon(lambda: bench.next_offset == 3)
        assert [one.outcome for one in bench.kept] == [DONE, DONE, DONE]

    run(scenario, monkeypatch)


def test_a_registry_that_does_not_answer_delays_and_a_fault_of_ours_parks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.unreadable = Unavailable("the registry is away")
        bench.inbox.receive([record(0)])
        await asyncio.sleep(0.01)
        assert bench.inbox.unfinished == 1
        bench.unreadable = ZeroDivisionError()
        await soon(lambda: bench.next_offset == 1)
        bench.unreadable = None
        bench.inbox.receive([record(1)])
        bench.answer("c1", DONE)
        await soon(lambda: bench.next_offset == 2)
        assert [one.fault is None for one in bench.kept] == [False, True]

    run(scenario, monkeypatch)


def test_an_outcome_that_cannot_be_kept_is_parked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.poison = "c1"
        bench.inbox.receive([record(0), record(1), record(2)])
        for number in range(3):
            bench.answer(f"c{number}", DONE)
        await soon(lambda: bench.next_offset == 3)
        assert [one.fault is None for one in bench.kept] == [True, False, True]

    run(scenario, monkeypatch)


def test_a_nul_in_a_header_parks_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.inbox.receive([record(0, command_id="a\0b")])
        await soon(lambda: bench.next_offset == 1)
        assert bench.kept[0].fault == "a header holds a NUL"

    run(scenario, monkeypatch)


def test_large_commands_pause_the_topic_before_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_inbox, "UNFINISHED_BYTES_MAX", 100)

    async def scenario(bench: Bench) -> None:
        bench.inbox.receive([record(number) for number in range(8)])
        assert not bench.flowing
        for number in range(8):
            bench.answer(f"c{number}", DONE)
        await soon(lambda: bench.flowing)

    run(scenario, monkeypatch)
