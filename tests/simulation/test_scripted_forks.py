"""Two bugs whose interleavings are rare: written out step by step, they show every time."""

from __future__ import annotations

import pytest

from tidelog.engine.actions import (
    Append,
    Commit,
    Fence,
    FindEnd,
    Read,
    Slot,
)
from tidelog.engine.batch import Request
from tidelog.engine.command import Envelope, Outcome, Refused
from tidelog.engine.ports import Limits, Tools
from tidelog.engine.writer import PartitionWriter
from tidelog.memory import LogRefusal, MemoryLog, MemoryStateStore

from .bugs import BeginsWithoutLease, FirstOnB
from .domain import Add, Take, account, codec


class _Instance:
    """A writer and its handles on a shared log; `step` does one action."""

    def __init__(self, name: str, log: MemoryLog, kind: type[PartitionWriter]) -> None:
        self._log = log
        self._name = name
        self._ids = 0
        self._epochs: dict[Slot, int] = {}
        self._landed = (-1, -1)
        self.answers: list[Outcome] = []
        self.writer = kind(
            context="accounts",
            partition=0,
            aggregate=account,
            store=MemoryStateStore(),
            tools=Tools(
                codec=codec, new_id=self._new_id, now=lambda: "2026-01-01T00:00:00.000000Z"
            ),
            limits=Limits(),
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._name}-{self._ids}"

    def step(self) -> bool:
        """Do the next action; a refusal of the broker is a failure. False if there is none."""
        action = self.writer.next_action()
        try:
            match action:
                case Fence(slot):
                    self._epochs[slot] = self._log.init(slot.value)
                    self.writer.fenced()
                case FindEnd():
                    self.writer.end_found(self._log.high_watermark)
                case Read(offset):
                    self.writer.records_read(*self._log.read(offset))
                case Append(slot, begin, records):
                    self._landed = self._log.append(
                        slot.value, self._epochs[slot], records, begin=begin
                    )
                case Commit(slot):
                    self._log.end(slot.value, self._epochs[slot], commit=True)
                    self.writer.committed(*self._landed)
                case _:
                    return False
        except LogRefusal:
            self.writer.failed()
        return True

    def serve(self) -> None:
        """Take over, or go on taking over."""
        while not self.writer.serving:
            assert self.step()

    def ask(self, command: Add | Take, *, sure: bool) -> None:
        """Offer a command and do what follows from it."""
        name = f"{self._name}-command-{len(self.answers)}"
        envelope = Envelope(
            command_id=name,
            command_hash=name,
            key=command.account_id,
            command=command,
            correlation_id=name,
            traceparent="",
        )
        self.writer.offer(Request(envelope=envelope, reply=self.answers.append))
        self.writer.decide(sure)
        while self.writer.serving and self.step():
            pass
        for request, outcome in self.writer.take_answers():
            request.reply(outcome)


ADD = Add(account_id="anna", amount=5, parts=1)
TAKE = Take(account_id="anna", amount=5)


def _sequences(log: MemoryLog) -> list[bytes | None]:
    return [dict(record.headers)["ce_sequence"] for record in log.read(0)[0]]


@pytest.mark.parametrize(
    ("kind", "sequences"), [(PartitionWriter, [b"1"]), (FirstOnB, [b"1", b"1"])]
)
def test_interleaved_takeovers_fork_the_log_only_if_the_first_transaction_is_not_on_a(
    kind: type[PartitionWriter], sequences: list[bytes]
) -> None:
    log = MemoryLog()
    usual = PartitionWriter  # the other instance goes on A first, as it must
    one, two = _Instance("one", log, kind), _Instance("two", log, usual)
    one.step()  # one fences A
    two.step()
    two.step()  # two fences A and B
    one.step()  # one fences B
    one.serve()
    two.serve()
    two.ask(ADD, sure=True)
    one.ask(ADD, sure=True)
    assert _sequences(log) == sequences


@pytest.mark.parametrize(("kind", "stale"), [(PartitionWriter, False), (BeginsWithoutLease, True)])
def test_a_late_fence_makes_the_owner_s_refusals_stale_only_if_no_lease_is_asked_for(
    kind: type[PartitionWriter], stale: bool
) -> None:
    log = MemoryLog()
    owner, late = _Instance("owner", log, kind), _Instance("late", log, kind)
    owner.serve()
    late.serve()  # its fences come after the owner's, though the group has deposed it
    late.ask(ADD, sure=False)
    owner.ask(TAKE, sure=True)
    refused = [type(outcome) for outcome in owner.answers] == [Refused]
    assert refused, "without the other's event there is nothing to take"
    assert (len(late.answers) == 1) is stale, "nobody may have been told of that event"
