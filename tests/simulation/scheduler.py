"""Virtual time: one queue of things that will happen, one seeded source of chance."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class Violation(AssertionError):
    """An invariant does not hold."""


class Scheduler:
    """Runs what is scheduled in the order of virtual time; equal times in order of arrival."""

    def __init__(self, seed: int, tracing: bool) -> None:
        self.random = random.Random(seed)
        self.now_ms = 0.0
        self.steps = 0
        self.tracing = tracing
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        """Do it so much later."""
        self._scheduled += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._scheduled, action))

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return probability > 0 and self.random.random() < probability

    def between(self, low: float, high: float) -> float:
        """A duration between the two."""
        return low + (high - low) * self.random.random()

    def run_until(self, done: Callable[[], bool], limit_ms: float) -> bool:
        """Run until `done`; False if that takes longer than the limit."""
        while not done():
            if not self._queue or self._queue[0][0] > limit_ms:
                return False
            self.now_ms, _, action = heapq.heappop(self._queue)
            self.steps += 1
            action()
        return True

    def note(self, who: str, what: object) -> None:
        """A line of the trace. Callers ask `tracing` first: most runs have none."""
        print(f"{self.now_ms:10.3f} ms  {who:<12} {what}")
