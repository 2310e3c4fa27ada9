"""A client that sends commands one after another, never gives up, and remembers every answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import msgspec

from tidelog.engine.batch import Request
from tidelog.engine.command import MUST_EXIST, Envelope, Outcome, Recorded, Refused
from tidelog.errors import NotOwner, Overloaded, Unavailable

from .domain import AccountCommand, Add, Harm, Poison, Settle, Take

if TYPE_CHECKING:
    from .world import World

KEYS = ("anna", "bert")
TIMEOUT_MS = 250.0


def abandoned() -> bool:
    """The client has given up."""
    return True


class Operation(msgspec.Struct, eq=False):
    """A command under one id, with one content."""

    command_id: str
    content: str
    command: AccountCommand
    expected_version: int | None
    timeouts: int = 0

    @property
    def harm(self) -> str:
        """What kind of poison it is, if any."""
        return self.command.harm if isinstance(self.command, Poison) else ""


class Attempt(msgspec.Struct, eq=False):
    """One sending of an operation. `version_floor` is the version that someone had seen before."""

    operation: Operation
    version_floor: int
    outcome: Outcome | None = None  # as a process gave it, whether or not it arrived


class Client:
    """Sends its operations in order and each of them until it has a final answer."""

    def __init__(self, world: World, number: int, operations: int) -> None:
        self._world = world
        self._scheduler = world.scheduler
        self.name = f"c{number}"
        self._left = operations
        self._thinking_ms = world.scheduler.random.choice((5, 60, 300))
        self._made = 0
        self._greed = world.scheduler.random.choice((4, 40))  # how much it takes at most
        self._done: list[Operation] = []
        self._waiting: Attempt | None = None
        self.finished = False

    def start(self) -> None:
        """Send the first operation."""
        self._scheduler.after(self._scheduler.between(0, self._thinking_ms), self._next)

    def _next(self) -> None:
        if self._left == 0:
            self.finished = True
            return
        self._left -= 1
        operation = self._choose()
        self._send(operation)
        if self._scheduler.chance(self._world.faults.duplicate):
            self._send_once(operation)

    def _choose(self) -> Operation:
        """A new command, an old one again, or an old id with other content."""
        chance, faults = self._scheduler.chance, self._world.faults
        if self._done and chance(0.15):
            old = self._scheduler.random.choice(self._done)
            if not chance(faults.other_content):
                return old
            return self._other_content(old)
        self._made += 1
        command_id = f"{self.name}-{self._made}"
        command = self._command()
        return self._world.checker.register(
            Operation(command_id, f"{command_id}-first", command, self._expected(command))
        )

    def _other_content(self, old: Operation) -> Operation:
        self._made += 1
        content = f"{self.name}-{self._made}-other"
        return self._world.checker.register(
            Operation(old.command_id, content, self._command(), None)
        )

    def _command(self) -> AccountCommand:
        rng = self._scheduler.random
        key = rng.choice(self._world.keys)
        if self._scheduler.chance(self._world.faults.poison):
            harm: Harm = rng.choice(get_args(Harm))
            return Poison(account_id=key, harm=harm)
        roll = rng.random()
        if roll < 0.35:
            return Add(account_id=key, amount=rng.randint(1, 3), parts=rng.randint(1, 3))
        if roll < 0.75:
            return Take(account_id=key, amount=rng.randint(1, self._greed))
        return Settle(account_id=key, balance=rng.randint(0, 2))

    def _expected(self, command: AccountCommand) -> int | None:
        if not self._scheduler.chance(0.3):
            return None
        known = self._world.checker.known(command.account_id)
        return self._scheduler.random.choice((known, known, known + 1, 0, MUST_EXIST))

    # --- sending ------------------------------------------------------------------------------

    def _send(self, operation: Operation) -> None:
        """Send it and wait for the answer."""
        attempt, request = self._send_once(operation)
        self._waiting = attempt
        self._scheduler.after(TIMEOUT_MS, lambda: self._timed_out(attempt, request))

    def _send_once(self, operation: Operation) -> tuple[Attempt, Request]:
        world, command = self._world, operation.command
        attempt = world.checker.attempt(operation)
        envelope = Envelope(
            command_id=operation.command_id,
            command_hash=operation.content,
            key=command.account_id,
            command=command,
            correlation_id=operation.command_id,
            traceparent="",
            expected_version=operation.expected_version,
        )
        request = Request(envelope=envelope, reply=lambda outcome: self._reply(attempt, outcome))
        process = world.route()
        if self._scheduler.tracing:
            self._scheduler.note(
                self.name, f"sends {operation.command_id} {command} to {process.name}"
            )
        self._travel(lambda: process.later(0.0, lambda: process.submit(request)))
        return attempt, request

    def _reply(self, attempt: Attempt, outcome: Outcome) -> None:
        """A process answers."""
        if self._scheduler.tracing:
            self._scheduler.note(self.name, f"{attempt.operation.command_id} is answered {outcome}")
        self._world.checker.answered(attempt, outcome)
        self._travel(lambda: self._arrived(attempt, outcome))

    def _travel(self, action: Callable[[], None]) -> None:
        if not self._scheduler.chance(self._world.faults.lose_message):
            self._scheduler.after(self._scheduler.between(0.1, 4), action)

    def _arrived(self, attempt: Attempt, outcome: Outcome) -> None:
        self._world.checker.observed(attempt, outcome)
        if attempt is not self._waiting:
            return
        self._waiting = None
        operation = attempt.operation
        if _try_again(operation, outcome):
            self._scheduler.after(self._scheduler.between(5, 60), lambda: self._send(operation))
            return
        self._end(operation)

    def _end(self, operation: Operation) -> None:
        self._done.append(operation)
        self._scheduler.after(self._scheduler.between(0, self._thinking_ms), self._next)

    def _timed_out(self, attempt: Attempt, request: Request) -> None:
        if attempt is not self._waiting:
            return
        if self._scheduler.chance(0.5):
            request.is_abandoned = abandoned
        if self._scheduler.tracing:
            self._scheduler.note(self.name, f"{attempt.operation.command_id} timed out")
        operation = attempt.operation
        operation.timeouts += 1
        if operation.harm == "broker" and operation.timeouts > 2:
            self._waiting = None
            self._end(operation)
        else:
            self._send(operation)


def _try_again(operation: Operation, outcome: Outcome) -> bool:
    """Whether the answer is not final. What the broker never takes is given up after its 503."""
    if isinstance(outcome, Recorded) or not isinstance(outcome, Refused):
        return False
    if not isinstance(outcome.error, Unavailable):
        return False
    if isinstance(outcome.error, NotOwner | Overloaded):
        return True
    return operation.harm != "broker"
