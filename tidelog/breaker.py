"""A circuit breaker: after too many failures it says no at once, and tries again carefully.

The pattern is Michael Nygard's ("Release It!", 2007). Closed: calls pass, and the last of them are
remembered. Open: calls are refused for a while. Half-open: a few may try; if they succeed it
closes, and the first that fails opens it again.

Pure but for the clock that is handed in; one event loop or one thread uses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, kw_only=True)
class BreakerOptions:
    """When it opens and for how long.

    It opens once at least `calls_min` calls of the last `window_s` seconds are known and
    `failure_share` of them failed; after `open_s` seconds `trials_max` calls at once may try.
    """

    window_s: float = 30.0
    calls_min: int = 10
    failure_share: float = 0.5
    open_s: float = 10.0
    trials_max: int = 1


class CircuitBreaker:
    """Guards one dependency. `now` gives monotonic seconds; `changed` hears of each new state."""

    def __init__(
        self,
        name: str,
        options: BreakerOptions,
        now: Callable[[], float],
        changed: Callable[[str, State], None] = lambda _name, _state: None,
    ) -> None:
        self.name = name
        self._options = options
        self._now = now
        self._changed = changed
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._opened_at: float | None = None
        self._trials = 0

    @property
    def state(self) -> State:
        """How it stands now."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self.retry_after_s() == 0 else "open"

    def retry_after_s(self) -> float:
        """In how many seconds a call may try; 0 where one may now."""
        if self._opened_at is None:
            return 0.0
        return max(self._opened_at + self._options.open_s - self._now(), 0.0)

    def allow(self) -> bool:
        """Whether a call may be made. Who was allowed must say `succeeded`, `failed` or `left`."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._trials >= self._options.trials_max:
            return False
        if self._trials == 0:
            self._changed(self.name, "half-open")
        self._trials += 1
        return True

    def succeeded(self) -> None:
        """The call was answered; an answer that says no is an answer."""
        if self._is_straggler():
            return
        if self._opened_at is not None:
            self._opened_at, self._trials = None, 0
            self._calls.clear()
            self._failures = 0
            self._changed(self.name, "closed")
        self._remember(failed=False)

    def failed(self) -> None:
        """The call failed, or was not answered in time."""
        if self._is_straggler():
            return
        if self._opened_at is not None:
            self._open()
            return
        self._remember(failed=True)
        enough = len(self._calls) >= self._options.calls_min
        if enough and self._failures >= self._options.failure_share * len(self._calls):
            self._open()

    def left(self) -> None:
        """The call was given up for a reason of ours: it says nothing about the other side."""
        self._trials = max(self._trials - 1, 0)

    def _is_straggler(self) -> bool:
        """Whether a call ends that began before it opened: what it says is known already."""
        return self._opened_at is not None and self._trials == 0

    def _open(self) -> None:
        self._opened_at, self._trials = self._now(), 0
        self._calls.clear()
        self._failures = 0
        self._changed(self.name, "open")

    def _remember(self, *, failed: bool) -> None:
        now = self._now()
        self._calls.append((now, failed))
        self._failures += failed
        while self._calls and self._calls[0][0] <= now - self._options.window_s:
            self._failures -= self._calls.popleft()[1]
