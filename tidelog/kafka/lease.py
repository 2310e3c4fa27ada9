"""How long this process may be sure that the group counts it as a member.

The group's coordinator evicts a member no sooner than the session timeout after it last heard from
it. So an accepted offset commit proves membership from the moment it was *sent* for that long. The
clock counts suspended time too: a process that was stopped wakes up unsure.
"""

from __future__ import annotations

import threading
import time

CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
MARGIN = 0.75
"""The share of the session timeout for which a proof is trusted."""


class Lease:
    """Written by the group's thread, read by the owners."""

    def __init__(self, session_timeout_ms: int) -> None:
        self._length_s = session_timeout_ms / 1000 * MARGIN
        self._proved_at = float("-inf")
        self._lock = threading.Lock()

    @staticmethod
    def clock() -> float:
        """Seconds on the lease's clock."""
        return time.clock_gettime(CLOCK)

    def prove(self, sent_at: float) -> None:
        """The group has accepted a request that was sent at this time."""
        with self._lock:
            self._proved_at = max(self._proved_at, sent_at)

    def revoke(self) -> None:
        """The group has said otherwise."""
        with self._lock:
            self._proved_at = float("-inf")

    def holds(self) -> bool:
        """Whether this process is still a member for certain."""
        return self.clock() - self._proved_at < self._length_s

    def proved_since(self, moment: float) -> bool:
        """Whether a proof was asked for after the given moment."""
        return self._proved_at > moment
