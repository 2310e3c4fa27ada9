"""A time limit for very many short waits, watched by one timer.

`asyncio.timeout` sets and cancels a timer of the event loop for every wait. Here all waits share
one limit, so their deadlines come in the order in which they began, and one coarse tick sees to
the oldest. A limit is kept to within a tick.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final

TICK_S: Final = 0.05


class Patience:
    """`with patience.wait():` raises TimeoutError inside once `limit_s` has passed."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s: Final = limit_s
        self._waits: dict[_Wait, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def wait(self) -> _Wait:
        """One wait of the running task; use it in a `with` statement at once."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "only a task can wait"
        wait = _Wait(self._waits, task, loop.time() + self.limit_s)
        if self._timer is None:
            self._timer = loop.call_later(min(TICK_S, self.limit_s), self._tick, loop)
        return wait

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        expired = []
        for wait in self._waits:
            if wait.deadline > now:
                break
            expired.append(wait)
        for wait in expired:
            wait.expire()
        self._timer = None
        if self._waits:
            self._timer = loop.call_later(min(TICK_S, self.limit_s), self._tick, loop)


class _Wait:
    """One wait: a task, its deadline, and whether it has passed."""

    __slots__ = ("_expired", "_task", "_waits", "deadline")

    def __init__(self, waits: dict[_Wait, None], task: asyncio.Task[Any], deadline: float) -> None:
        self._waits = waits
        self._task = task
        self._expired = False
        self.deadline = deadline

    def expire(self) -> None:
        """End the wait: the task, which stands at an await inside it, is cancelled there."""
        del self._waits[self]
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None:
        self._waits[self] = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._expired:
            del self._waits[self]
        elif self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error
