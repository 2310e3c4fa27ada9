"""Given events, when one more comes or time passes, then these commands are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from tidelog.engine.deciding import decide
from tidelog.engine.reacting import DecisionRecord, Heard, Instance, Reacted, Reactor
from tidelog.message import Command, Event, State
from tidelog.saga import Phase, Saga
from tidelog.testing._messages import check_form, difference, listed

S = TypeVar("S", bound=State)

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class GivenSaga(Generic[S]):
    """One instance after some events. Every event comes a second after the one before it."""

    def __init__(self, saga: Saga[S], history: Sequence[Event] = ()) -> None:
        self._reactor = Reactor(saga, saga.contexts)
        self._now = BEGINNING
        self._instance: Instance[Any] | None = None
        self._told = [saga.name]
        self._count = 0
        for event in history:
            self._instance = self._hear(event).instance

    def when(self, event: Event) -> SagaOutcome:
        """The event comes."""
        return self._outcome(f"when {event!r}", self._hear(event))

    def after(self, time: timedelta) -> SagaOutcome:
        """So much time passes, and nothing else happens."""
        assert self._instance is not None, "time passes for an instance that has begun"
        self._now += time
        return self._outcome(f"after {time}", self._reactor.remind(self._instance, self._now))

    def refused(self, command: type[Command], rule: str = "a-rule") -> SagaOutcome:
        """A command of this type that was asked for is refused."""
        assert self._instance is not None, "a command is refused for an instance that has begun"
        asked = [
            step.command_id
            for step in self._instance.steps
            if step.command_type == command.__name__ and step.status == "pending"
        ]
        assert asked, f"{' '.join(self._told)}: no {command.__name__} waits for an answer"
        reacted = self._reactor.refused(self._instance, asked[0], rule, self._now)
        return self._outcome(f"{command.__name__} refused", reacted)

    def decided(self, decision: str, step: str = "", reason: str = "a reason") -> SagaOutcome:
        """A person decides: retry, skip (a step) or compensate."""
        assert self._instance is not None, "a decision is about an instance that has begun"
        self._now += timedelta(seconds=1)
        self._count += 1
        record = DecisionRecord(
            target=f"decision-{self._count}",
            decision=decision,
            step=step,
            operator="operator",
            reason=reason,
            position=f"operations:0:{self._count}",
            at=self._now,
        )
        reacted = decide(self._reactor, self._instance, record)
        return self._outcome(f"decided {decision} {step}", reacted)

    def _hear(self, event: Event) -> Reacted:
        check_form(event)
        self._now += timedelta(seconds=1)
        self._count += 1
        heard = Heard(
            event=event,
            message_id=f"message-{self._count}",
            causation_id=f"cause-{self._count}",
            correlation_id="correlation",
            traceparent="",
            position=f"test:0:{self._count}",
            at=self._now,
        )
        self._told.append(type(event).__name__)
        return self._reactor.react(self._instance, heard)

    def _outcome(self, what: str, reacted: Reacted) -> SagaOutcome:
        commands = tuple(request.command for request in reacted.requests)
        for command in commands:
            check_form(command)
        told = f"given {' '.join(self._told)}\n{what}"
        return SagaOutcome(told=told, commands=commands, instance=reacted.instance)


@dataclass(frozen=True, kw_only=True)
class SagaOutcome:
    """What one event, or some time, came to."""

    told: str
    commands: tuple[Command, ...]
    instance: Instance[Any] | None

    def then(self, *expected: Command) -> SagaOutcome:
        """Exactly these commands are asked for, in this order; with no argument: nothing is."""
        if self.commands != expected:
            raise AssertionError(
                f"{self.told}\nthen expected: {listed(expected)}\n"
                f"     happened: {listed(self.commands)}{difference(expected, self.commands)}"
            )
        return self

    def then_phase(self, phase: Phase) -> SagaOutcome:
        """The instance stands like this."""
        actual = self.instance.phase if self.instance is not None else None
        assert actual == phase, f"{self.told}\nthen expected: {phase}\n     but is: {actual}"
        return self

    def then_stuck(self, because: str) -> SagaOutcome:
        """The instance waits for a person, and says this among its reasons."""
        actual = self.instance.stuck if self.instance is not None else ""
        assert because in actual, f"{self.told}\nthen stuck: {because}\n     but is: {actual!r}"
        return self

    def then_decided(self) -> SagaOutcome:
        """The last decision of a person was carried out."""
        assert self._last_refusal() == "", f"{self.told}\nbut refused: {self._last_refusal()}"
        return self

    def then_refused(self, because: str) -> SagaOutcome:
        """The last decision of a person was refused, and this is among its reasons."""
        actual = self._last_refusal()
        assert because in actual and actual, f"{self.told}\nthen refused: {because}, is: {actual!r}"
        return self

    def _last_refusal(self) -> str:
        assert self.instance is not None and self.instance.decisions, "nobody has decided"
        return self.instance.decisions[-1].refused

    def then_held(self) -> SagaOutcome:
        """The event waits until its instance begins."""
        assert self.instance is None, f"{self.told}\nthen held, but an instance has begun"
        return self
