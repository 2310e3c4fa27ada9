"""Reacting: one event, one deadline or one refusal changes one instance of a saga.

Pure. Whoever drives it holds the instance's row locked, writes what comes out in one transaction
with the positions and the outbox, and hands in the time.

Every command's id follows from what asked for it, so that a repetition asks for the same. A step's
id follows from the event; that of a compensation from the instance, so that however often it is
asked for, and by whatever event, it is one command, done once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from tidelog.canonical import canonical_data, command_id
from tidelog.engine.saga_instance import (
    DecisionRecord,
    Heard,
    Instance,
    Kind,
    Reacted,
    Request,
    StepRecord,
    StepStatus,
    answered_by,
    closed,
    is_turning,
    noted,
    turn_back_refused,
)
from tidelog.message import Command, Context, Event
from tidelog.saga import (
    ENDS,
    Answers,
    Commands,
    Compensation,
    Deadline,
    Reaction,
    Saga,
    current_step,
)

__all__ = [
    "DecisionRecord",
    "Heard",
    "Instance",
    "Kind",
    "Reacted",
    "Reactor",
    "Request",
    "StepRecord",
    "StepStatus",
    "Turn",
]

STUCK_CHARACTERS_MAX = 1_000


class Reactor:
    """Runs the instances of one saga. It keeps nothing between calls."""

    def __init__(self, saga: Saga[Any], contexts: Iterable[Context]) -> None:
        self.saga = saga
        self.compensations = tuple(saga.undoing)
        self.deadlines = tuple(saga.limits)
        # By the annotations of `evolve`, which are not read again for each batch.
        self.heard_types = frozenset(saga.event_types)
        self._reactions = saga.reactions
        self._homes: dict[str, tuple[type[Command], Context]] = {
            command.__name__: (command, context)
            for context in contexts
            for command in context.command_types
        }

    def react(self, instance: Instance[Any] | None, heard: Heard) -> Reacted:
        """The event reaches its instance, or begins it; else it is to be held until one begins."""
        if instance is None:
            if type(heard.event) not in self.saga.starts:
                return Reacted(None, ())
            instance = self._begun(heard)
        turn = Turn(self, instance, heard.at, heard.message_id)
        turn.answered(heard)
        turn.hear(heard.event, heard.message_id)
        return turn.settled()

    def remind(self, instance: Instance[Any], now: datetime) -> Reacted:
        """Do what is due: deadlines that have passed, compensations that are to be tried again.

        Where a function of the saga fails the instance waits for a person, and no other does.
        """
        turn = Turn(self, instance, now, instance.key)
        due = sorted(name for name, due in instance.due.items() if due <= now)
        try:
            for name in due:
                turn.miss(name)
            return turn.settled()
        except Exception as error:
            return _halted(instance, ", ".join(due), error, now)

    def refused(
        self, instance: Instance[Any], command_id: str, reason: str, now: datetime
    ) -> Reacted:
        """A command that the instance sent was refused; it waits for a person.

        So it does where a function of the saga fails.
        """
        turn = Turn(self, instance, now, instance.key)
        try:
            turn.refused(command_id, reason)
            return turn.settled()
        except Exception as error:
            return _halted(instance, f"after a refusal ({reason})", error, now)

    def reactions_to(self, event: Event) -> Sequence[Reaction]:
        """The steps and failures that the event leads to."""
        return self._reactions.get(type(event), ())

    def skips(self) -> Mapping[str, Answers | None]:
        """Every step and compensation by name; the answers that a person may give, if any."""
        return {
            **{each.step: each.skipped for each in (*self.saga.steps, *self.saga.failures)},
            **{each.name: each.skipped for each in self.saga.order},
            **{each.step: each.skipped for each in self.compensations},
        }

    def outside(self, step: str) -> Sequence[str]:
        """The effects that are stopped where a person skips the step."""
        named = {
            **{each.step: each.outside for each in self.saga.steps},
            **{each.name: each.outside for each in self.saga.order},
            **{each.step: each.outside for each in self.compensations},
        }
        return named.get(step, ())

    def refusal_branch(self, step: str) -> Callable[[Any, str], Commands] | None:
        """What to do where a command of the step is refused, if the table says so."""
        reactions = {r.step: r.refused for r in (*self.saga.steps, *self.saga.failures)}
        ordered = {each.name: each.refused for each in self.saga.order}
        return {**reactions, **ordered}.get(step)

    def home(self, command: Command) -> Context:
        """The context that takes the command."""
        return self._homes[type(command).__name__][1]

    def command_of(self, record: StepRecord) -> tuple[Command, Context]:
        """The command that was recorded, and the context that takes it."""
        kind, context = self._homes[record.command_type]
        return msgspec.json.decode(record.data, type=kind), context

    def _begun(self, heard: Heard) -> Instance[Any]:
        key = self.saga.key_of(heard.event)
        assert key is not None, "an event that begins an instance names it"
        return Instance(
            key=key,
            state=self.saga.initial,
            phase="forward",
            steps=(),
            due={},
            missed=(),
            stuck="",
            correlation_id=heard.correlation_id,
            traceparent=heard.traceparent,
            started_at=heard.at,
            updated_at=heard.at,
            ended_at=None,
        )


def _halted(instance: Instance[Any], what: str, error: Exception, now: datetime) -> Reacted:
    """The instance as it was, waiting for a person; a retry sets its clocks and asks again."""
    stuck = f"{what}: {type(error).__name__}: {error}".replace("\0", "")[:STUCK_CHARACTERS_MAX]
    later = {name: due for name, due in instance.due.items() if due > now}
    return Reacted(msgspec.structs.replace(instance, due=later, stuck=stuck, updated_at=now), ())


class Turn:
    """One change of one instance in the making."""

    def __init__(
        self, reactor: Reactor, instance: Instance[Any], now: datetime, cause: str
    ) -> None:
        self._reactor = reactor
        self._saga = reactor.saga
        self._instance = instance
        self._now = now
        self._cause = cause
        self._steps = {record.command_id: record for record in instance.steps}
        self._due = dict(instance.due)
        self._missed = list(instance.missed)
        self._stuck = instance.stuck
        self._decisions = instance.decisions
        self._requests: list[Request] = []
        self.state = instance.state
        self.phase = instance.phase

    # --- what happens to it -----------------------------------------------------------------

    def hear(self, event: Event, cause: str) -> None:
        """Remember the event, and go on from it; `cause` is what it asks under."""
        before = self.phase
        self.state = self._saga.evolve(self.state, event)
        self.phase = self._saga.phase(self.state)
        if self.phase == "undoing" and before != "undoing":
            self._stuck = ""  # what held it up on its way is what is undone now
        if self.phase not in ("undoing", "compensated", "failed"):
            for reaction in self._reactor.reactions_to(event):
                self.ask(reaction.step, "step", reaction.react(event, self.state), cause=cause)

    def answered(self, heard: Heard) -> None:
        """An event that one of our commands caused is its answer; the first one counts.

        Skipped is what an instance that had ended did not wait for; its answer may come all the
        same.
        """
        record = self._steps.get(heard.causation_id)
        if record is not None and record.status in ("pending", "skipped"):
            self._steps[record.command_id] = msgspec.structs.replace(
                record,
                status="done",
                event_type=type(heard.event).__name__,
                position=heard.position,
                answered_at=heard.at,
            )

    def refused(self, identity: str, reason: str) -> None:
        """One of our commands was refused."""
        record = self._steps.get(identity)
        if record is not None and record.status == "pending":
            self._steps[identity] = msgspec.structs.replace(
                record, status="failed", reason=reason, answered_at=self._now
            )
            branch = self._reactor.refusal_branch(record.step)
            if record.kind == "decision":
                why = f"{record.command_type} was refused: {reason}"
                self._decisions = turn_back_refused(self._decisions, why)
            elif branch is None:
                self._stuck = f"{record.step}: {record.command_type} was refused: {reason}"
            else:
                name = f"{record.step}-refused"
                self.ask(name, "step", branch(self.state, reason), cause=self._key)

    def miss(self, name: str) -> None:
        """A time has come: that of a compensation's next attempt, or the end of a deadline."""
        del self._due[name]
        for compensation in self._reactor.compensations:
            if name == _due_name(compensation):
                self._compensate_again(compensation)
        for deadline in self._reactor.deadlines:
            if name == deadline.name and deadline.waiting(self.state):
                self._missed.append(name)
                if deadline.missed is None:
                    self._stuck = f"{name} has lasted longer than {deadline.within}"
                else:
                    commands = deadline.missed(self.state)
                    self.ask(name, "deadline", commands, cause=self._instance.key)

    def skip(self, step: str, answer: str, decided: DecisionRecord) -> None:
        """What the step asked for is waited for no more: a person answered for it."""
        self._stuck, self._missed = "", []
        for record in list(self._steps.values()):
            if record.step == step and record.status in ("pending", "failed"):
                self._steps[record.command_id] = answered_by(decided, record, answer)

    def note(self, decided: DecisionRecord) -> None:
        """A person decided this."""
        self._decisions = noted(self._decisions, decided)

    def start_afresh(self) -> None:
        """Send again what has no answer, with all its attempts before it."""
        self._stuck, self._missed = "", []
        clocks = {each.step: each for each in self._reactor.compensations}
        for record in list(self._steps.values()):
            if record.status in ("pending", "failed"):
                self._send_again(msgspec.structs.replace(record, status="pending", attempts=0))
                if record.step in clocks:
                    self._wait_for_effect(clocks[record.step])

    def ask_back(self, step: str, commands: Commands) -> None:
        """A person wants it turned back; what was refused before is asked again."""
        self.ask(step, "decision", commands, cause=self._key)
        for record in list(self._steps.values()):
            if record.step == step and record.status in ("failed", "skipped"):
                self._send_again(msgspec.structs.replace(record, status="pending", attempts=0))

    # --- what it asks for -------------------------------------------------------------------

    def ask(self, step: str, kind: Kind, commands: Commands, *, cause: str) -> int:
        """Ask for what was not asked for yet; how many commands that were."""
        fresh = 0
        for number, command in enumerate(_listed(commands)):
            _check(command)
            context = self._reactor.home(command)
            subject = str(getattr(command, context.key))
            key = f"{cause}/{step}/{number if kind == 'step' else type(command).__name__}"
            identity = command_id(f"saga:{self._saga.name}", context.name, subject, key)
            if identity not in self._steps:
                record = StepRecord(
                    step=step,
                    kind=kind,
                    status="pending",
                    command_id=identity,
                    command_type=type(command).__name__,
                    data=canonical_data(command).decode(),
                    subject=subject,
                    attempts=0,
                    at=self._now,
                )
                self._send_again(record)
                fresh += 1
        return fresh

    def settled(self) -> Reacted:
        """Undo what is to be undone, set the clocks, and say how the instance stands."""
        if self.phase == "forward":
            self._lead()
        if self.phase == "undoing":
            self._undo()
        clocks = self._reactor.deadlines
        _set(clocks, self.state, self._now, self._due, self._missed)
        ended = self.phase in ENDS
        if ended:
            self._due, self._stuck = {}, ""
        before, steps = self._instance, self._steps.values()
        instance = Instance(
            key=before.key,
            state=self.state,
            phase=self.phase,
            steps=tuple(closed(steps) if ended else steps),
            due=self._due,
            missed=tuple(self._missed),
            stuck=self._stuck,
            correlation_id=before.correlation_id,
            traceparent=before.traceparent,
            started_at=before.started_at,
            updated_at=self._now,
            ended_at=(before.ended_at or self._now) if ended else None,
            decisions=self._decisions,
        )
        return Reacted(instance, self._requests)

    def _lead(self) -> None:
        """In a process with an order: ask for the first step that is not done."""
        step = current_step(self._saga.order, self.state)
        if step is not None and step.ask is not None and not is_turning(self._steps.values()):
            self.ask(step.name, "step", step.ask(self.state), cause=self._key)

    def _undo(self) -> None:
        """Ask for the compensation that is next: the last step's that is not undone yet."""
        needed = [each for each in self._reactor.compensations if each.needed(self.state)]
        for compensation in self._reactor.compensations:
            if compensation not in needed:
                self._due.pop(_due_name(compensation), None)
        if needed:
            self._compensate(needed[-1])
        elif self._saga.undone is not None:
            self.ask("undone", "compensation", self._saga.undone(self.state), cause=self._key)

    def _compensate(self, compensation: Compensation) -> None:
        commands = compensation.by(self.state)
        asked = self.ask(compensation.step, "compensation", commands, cause=self._key)
        # What was not waited for any more, or skipped by a person, is needed after all.
        again = [
            record
            for record in self._steps.values()
            if record.step == compensation.step and record.status == "skipped"
        ]
        for record in again:
            self._send_again(msgspec.structs.replace(record, status="pending", attempts=0))
        if asked or again:
            self._wait_for_effect(compensation)

    def _wait_for_effect(self, compensation: Compensation) -> None:
        """Start the clock of a compensation that was asked for once."""
        pause = timedelta(seconds=compensation.retries.pause_s(1))
        self._due[_due_name(compensation)] = self._now + pause

    def _compensate_again(self, compensation: Compensation) -> None:
        """Send what has no effect yet once more, until the attempts are used up."""
        if self.phase != "undoing" or not compensation.needed(self.state):
            return
        pending = [
            record
            for record in self._steps.values()
            if record.step == compensation.step and record.status == "pending"
        ]
        attempts = max((record.attempts for record in pending), default=0)
        retries = compensation.retries
        if attempts >= retries.attempts_max:
            self._stuck = f"{compensation.step} had no effect in {attempts} attempts"
        elif pending:
            for record in pending:
                self._send_again(record)
            pause = timedelta(seconds=retries.pause_s(attempts + 1))
            self._due[_due_name(compensation)] = self._now + pause

    def _send_again(self, record: StepRecord) -> None:
        """Put the record's command into the outbox, and count the attempt."""
        command, context = self._reactor.command_of(record)
        self._steps[record.command_id] = msgspec.structs.replace(
            record, attempts=record.attempts + 1
        )
        self._requests.append(
            Request(
                command=command,
                context=context.name,
                subject=record.subject,
                command_id=record.command_id,
                causation_id=self._cause,
                correlation_id=self._instance.correlation_id,
                traceparent=self._instance.traceparent,
                step=record.step,
            )
        )

    @property
    def _key(self) -> str:
        return f"{self._saga.name}:{self._instance.key}"


def _listed(commands: Commands) -> Sequence[Command]:
    if commands is None:
        return ()
    return (commands,) if isinstance(commands, Command) else commands


def _set(
    deadlines: Iterable[Deadline],
    state: Any,
    now: datetime,
    due: dict[str, datetime],
    missed: list[str],
) -> None:
    """Start the clocks of the deadlines that run, and stop those of the others."""
    for deadline in deadlines:
        if not deadline.waiting(state):
            due.pop(deadline.name, None)
            if deadline.name in missed:
                missed.remove(deadline.name)
        elif deadline.name not in due and deadline.name not in missed:
            due[deadline.name] = now + deadline.within


def _check(command: Command) -> None:
    """A command that breaks its own bounds fails the reaction, and not its sending later."""
    msgspec.convert(msgspec.to_builtins(command), type(command))


def _due_name(compensation: Compensation) -> str:
    return f"again:{compensation.step}"
