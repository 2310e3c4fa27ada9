"""A door that opens and closes, and a bench on which its writer is driven by hand."""

from __future__ import annotations

from typing import Literal

from tidelog.aggregate import Aggregate
from tidelog.engine.actions import (
    Action,
    Append,
    Commit,
    Fence,
    FindEnd,
    Read,
    Reset,
    Slot,
)
from tidelog.engine.batch import Request
from tidelog.engine.command import Envelope, Outcome, Recorded, Refused
from tidelog.engine.ports import Limits, Tools
from tidelog.engine.writer import PartitionWriter
from tidelog.errors import (
    CodecError,
    Rejected,
)
from tidelog.memory import MemoryCodec, MemoryLog, MemoryStateStore
from tidelog.message import Command, Context, Event, Id, Message, State, replace


class Open(Command):
    door_id: Id


class Close(Command):
    door_id: Id


class Break(Command):
    door_id: Id
    how: Literal["decide", "encode", "size"]


class Opened(Event):
    door_id: Id


class Closed(Event):
    door_id: Id
    note: str = ""


class Door(State):
    open: bool = False


class DoorIsClosed(Rejected):
    """Only an open door can be closed."""


DoorCommand = Open | Close | Break
DoorEvent = Opened | Closed


def decide(command: DoorCommand, door: Door) -> list[DoorEvent]:
    match command:
        case Open(door_id=door_id):
            return [] if door.open else [Opened(door_id=door_id)]
        case Close(door_id=door_id):
            if not door.open:
                raise DoorIsClosed(door_id)
            return [Closed(door_id=door_id)]
        case Break(door_id=door_id, how=how):
            if how == "decide":
                raise ZeroDivisionError
            note = "unfit" if how == "encode" else "x" * 10_000
            return [Opened(door_id=door_id), Closed(door_id=door_id, note=note)]


def evolve(door: Door, event: DoorEvent) -> Door:
    return replace(door, open=isinstance(event, Opened))


doors = Context(name="doors", key="door_id", commands=DoorCommand, events=DoorEvent)
door = Aggregate(name="door", context=doors, initial=Door(), decide=decide, evolve=evolve)


class DoorCodec(MemoryCodec):
    def encode(self, message: Message) -> bytes:
        if isinstance(message, Closed) and message.note == "unfit":
            raise CodecError("does not fit")
        return super().encode(message)


codec = DoorCodec(doors.event_types)


class Bench:
    """A writer on an in-memory log, with the driver's hand on every action."""

    def __init__(
        self,
        log: MemoryLog | None = None,
        store: MemoryStateStore | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.log = log or MemoryLog()
        self.store = store or MemoryStateStore()
        self.answers: dict[str, Outcome] = {}
        self.epochs: dict[Slot, int] = {}
        self.landed: tuple[int, int] = (-1, -1)
        self._ids = 0
        self.writer = PartitionWriter(
            context="doors",
            partition=0,
            aggregate=door,
            store=self.store,
            tools=Tools(
                codec=codec,
                new_id=self._new_id,
                now=lambda: "2026-01-31T12:00:00.000000Z",
            ),
            limits=limits or Limits(record_bytes_max=5_000),
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"m-{id(self)}-{self._ids}"

    # --- commands -----------------------------------------------------------------------------

    def offer(
        self,
        name: str,
        command: DoorCommand,
        *,
        command_id: str = "",
        content: str = "",
        expected_version: int | None = None,
    ) -> Request:
        """Offer a command; its answer will be `answers[name]`."""
        envelope = Envelope(
            command_id=command_id or name,
            command_hash=content or repr(command),
            key=command.door_id,
            command=command,
            correlation_id=name,
            traceparent="",
            expected_version=expected_version,
        )

        def answer(outcome: Outcome) -> None:
            assert name not in self.answers, "nobody is answered twice"
            self.answers[name] = outcome

        request = Request(envelope=envelope, reply=answer)
        self.writer.offer(request)
        return request

    def decide(self, sure: bool = True) -> None:
        """Decide what may be decided and give the answers that are certain."""
        self.writer.decide(sure)
        self.answer()

    def answer(self) -> None:
        """Give the answers that are certain."""
        for request, outcome in self.writer.take_answers():
            request.reply(outcome)

    # --- actions ------------------------------------------------------------------------------

    def next(self) -> Action | None:
        """The next action, which is not done."""
        return self.writer.next_action()

    def do(self) -> Action | None:
        """Do the next action, and do it well."""
        action = self.writer.next_action()
        match action:
            case Fence(slot):
                self.epochs[slot] = self.log.init(slot.value)
                self.writer.fenced()
            case FindEnd():
                self.writer.end_found(self.log.high_watermark)
            case Read(offset):
                self.writer.records_read(*self.log.read(offset))
            case Append():
                self.append(action)
            case Commit(slot):
                self.commit(slot)
            case Reset():
                self.writer.resumed()
        self.answer()
        return action

    def append(self, append: Append) -> None:
        """The records reach the log."""
        first, last = self.log.append(
            append.slot.value,
            self.epochs[append.slot],
            append.records,
            begin=append.begin,
        )
        self.landed = (first if append.begin else self.landed[0], last)

    def commit(self, slot: Slot) -> None:
        """The transaction is committed and the writer is told so."""
        self.log.end(slot.value, self.epochs[slot], commit=True)
        self.writer.committed(*self.landed)

    def serve(self) -> Bench:
        """Take over."""
        while not self.writer.serving:
            assert self.do() is not None
        return self

    def settle(self, sure: bool = True) -> Bench:
        """Decide and act until nothing is left to do."""
        self.decide(sure)
        while self.do() is not None or not self.writer.idle:
            self.decide(sure)
        return self

    def proven(self) -> Bench:
        """Take over and commit the tenure's first transaction, on A."""
        self.serve()
        self.offer("first", Open(door_id="first"))
        return self.settle()


def recorded(*events: tuple[str, int], version: int, replayed: bool = False) -> Recorded:
    return Recorded(version=version, events=events, replayed=replayed)


def refusal(outcome: Outcome) -> type[Exception]:
    assert isinstance(outcome, Refused)
    return type(outcome.error)
