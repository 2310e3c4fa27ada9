"""An instance of a saga as it is stored: what it asked for, what came of it, who decided what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from tidelog.message import Command, Event, State
from tidelog.saga import Phase

S = TypeVar("S", bound=State)

Kind = Literal["step", "compensation", "deadline", "decision"]
StepStatus = Literal["pending", "done", "failed", "skipped"]

DECISIONS_MAX = 100


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One command that an instance asked for, and what came of it."""

    step: str
    kind: Kind
    status: StepStatus
    command_id: str
    command_type: str
    data: str
    """The command as canonical JSON, so that it can be sent again."""
    subject: str
    attempts: int
    at: datetime
    event_type: str | None = None
    position: str | None = None
    answered_at: datetime | None = None
    reason: str | None = None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided about an instance, and why; `refused` says why it was not done."""

    target: str
    decision: str
    step: str
    operator: str
    reason: str
    position: str
    at: datetime
    refused: str = ""


class Instance(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """One running process: what it remembers, what it asked for, and what it waits for.

    `due` holds the running deadlines and the next attempts of compensations, by name. `stuck` says
    why the instance waits for a person; it is empty where it does not. `decisions` are those that
    people made about it, the last `DECISIONS_MAX` of them.
    """

    key: str
    state: S
    phase: Phase
    steps: tuple[StepRecord, ...]
    due: Mapping[str, datetime]
    missed: tuple[str, ...]
    stuck: str
    correlation_id: str
    traceparent: str
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    decisions: tuple[DecisionRecord, ...] = ()

    @property
    def next_due(self) -> datetime | None:
        """When it must be looked at again, if nothing comes before."""
        return min(self.due.values(), default=None)


class Heard(NamedTuple):
    """An event as a saga hears it."""

    event: Event
    message_id: str
    causation_id: str
    correlation_id: str
    traceparent: str
    position: str
    at: datetime


class Request(NamedTuple):
    """A command for the outbox."""

    command: Command
    context: str
    subject: str
    command_id: str
    causation_id: str
    correlation_id: str
    traceparent: str
    step: str


class Reacted(NamedTuple):
    """The instance afterwards, and what it asks for. None: the event came before its instance."""

    instance: Instance[Any] | None
    requests: Sequence[Request]


def closed(records: Iterable[StepRecord]) -> Iterable[StepRecord]:
    """An instance that has ended waits for nothing: what had no answer needed none."""
    for record in records:
        if record.status == "pending":
            yield msgspec.structs.replace(record, status="skipped")
        else:
            yield record


def is_turning(records: Iterable[StepRecord]) -> bool:
    """Whether it was asked to turn round, and has no answer yet: it must not go on meanwhile.

    A refusal of that lets it go on, or leaves it to a person.
    """
    return any(
        record.kind in ("deadline", "decision") and record.status == "pending" for record in records
    )


def answered_by(decided: DecisionRecord, record: StepRecord, answer: str) -> StepRecord:
    """The record where a person has answered for whom it was asked of."""
    return msgspec.structs.replace(
        record,
        status="skipped",
        event_type=answer,
        position=decided.position,
        answered_at=decided.at,
        reason=decided.reason,
    )


def noted(
    decisions: tuple[DecisionRecord, ...], decided: DecisionRecord
) -> tuple[DecisionRecord, ...]:
    """The decisions with one more, the oldest forgotten beyond the bound."""
    return (*decisions, decided)[-DECISIONS_MAX:]


def turn_back_refused(
    decisions: tuple[DecisionRecord, ...], why: str
) -> tuple[DecisionRecord, ...]:
    """The decisions where the last wish to turn back was refused by whom it was put to."""
    place = max(
        (i for i, each in enumerate(decisions) if each.decision == "compensate"), default=-1
    )
    return tuple(
        msgspec.structs.replace(each, refused=why) if number == place else each
        for number, each in enumerate(decisions)
    )
