"""Going out of service in order: first say so, then go on answering for a while, then stop.

Whoever spreads requests over several instances looks at /readyz now and then. Until it has looked
it still sends requests here, so a process that is told to stop answers them as before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tidelog.http.ports import ReadinessCheck


class Draining:
    """How long a process serves after it was told to stop. Begun by a signal, read by the loop."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.begun = False
        self._seconds = seconds

    def begin(self, stop: Callable[[], None]) -> None:
        """Call `stop` when it is over; at once the second time, or where there is no time."""
        if self.begun or not self._seconds:
            self.begun = True
            stop()
            return
        self.begun = True
        timer = threading.Timer(self._seconds, stop)
        timer.daemon = True
        timer.start()

    def check(self) -> ReadinessCheck:
        """Not ready from the moment it has begun."""
        return ReadinessCheck.of("draining", lambda: ["stopping"] if self.begun else [])
