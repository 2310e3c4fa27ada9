"""The bounded queue of commands that wait to be decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tidelog.engine.batch import Batch, Request
from tidelog.engine.command import Recorded
from tidelog.engine.ports import Limits
from tidelog.errors import Overloaded


class WaitingCommands:
    """Commands in the order in which they came; those of a failed transaction go first, singly."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: deque[Request] = deque()
        self._singles = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def alone(self) -> bool:
        """Whether the next command was in a transaction that failed, and is to be tried alone."""
        return self._singles > 0

    def add(self, request: Request) -> None:
        """Queue a command; Overloaded where the bound is reached."""
        if len(self._queue) >= self._limits.queue_commands_max:
            raise Overloaded(f"{self._limits.queue_commands_max} commands are waiting already.")
        self._queue.append(request)

    def take(self) -> Request:
        """The next command."""
        self._singles = max(self._singles - 1, 0)
        return self._queue.popleft()

    def put_first(self, requests: Sequence[Request]) -> None:
        """Queue commands before all others, in their order."""
        self._queue.extendleft(reversed(requests))

    def try_again(self, failed: Sequence[Batch]) -> list[Request]:
        """Queue the commands of failed transactions, each to be tried alone.

        Returns those that have failed too often: they are answered, so that they cannot hold up
        the others.
        """
        for batch in failed:
            for request, outcome in batch.outcomes:
                request.attempts += 1
                request.recorded = isinstance(outcome, Recorded)
        undecided = [request for batch in failed for request in batch.unanswered]
        self._singles += len(undecided)
        self.put_first(undecided)
        return self._take_the_tired()

    def take_all(self) -> list[Request]:
        """Empty the queue."""
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def _take_the_tired(self) -> list[Request]:
        attempts_max = self._limits.attempts_max
        tired = [request for request in self._queue if request.attempts >= attempts_max]
        if tired:
            kept = [request for request in self._queue if request.attempts < attempts_max]
            self._queue = deque(kept)
            self._singles = max(self._singles - len(tired), 0)
        return tired
