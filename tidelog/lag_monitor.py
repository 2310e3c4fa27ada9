"""Watches the lag of every read model, for metrics and for /readyz."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tidelog.errors import Unavailable
from tidelog.lag import GenerationLag
from tidelog.lag_observer import LagObserver
from tidelog.logging import get_logger
from tidelog.projection_metrics import LagMetrics

INTERVAL_S = 2.0

log = get_logger(__name__)


class LagMonitor:
    """Looks every few seconds. `run` is a thread's target; everything else any thread may call.

    It measures every read model, whoever feeds it: what nobody feeds is measured too.
    """

    def __init__(self, observer: LagObserver, interval_s: float = INTERVAL_S) -> None:
        self._observer = observer
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._seen: Sequence[GenerationLag] = ()
        self._told: list[str] = []
        self._metrics = LagMetrics()

    def problems(self) -> list[str]:
        """The partitions that are stalled and the logs that were cut; empty where all is well."""
        return [problem for each in self._seen for problem in each.problems()]

    def stop(self) -> None:
        """Finish the look in hand, then end."""
        self._stopping.set()

    def run(self) -> None:
        """Look until stopped; what cannot be reached now is asked again."""
        try:
            while not self._stopping.wait(self._interval_s):
                self._look()
        finally:
            self._observer.close()

    def _look(self) -> None:
        try:
            self._seen = self._observer.look()
        except Unavailable as error:
            log.warning("projection.lag_unknown", reason=str(error))
            return
        self._metrics.tell(self._seen)
        stalled = [
            f"{each.stored.table} {at.partition}" for each in self._seen for at in each.stalled
        ]
        if stalled != self._told:
            for problem in self.problems():
                log.error("projection.stalled", reason=problem)
            self._told = stalled
