"""Watches that the markers of a partition's transactions come after its commits.

A commit is acknowledged before its marker is written, and a broker that is killed in between may
never write it (tidelog/kafka/markers.py). While commands flow, the commits behind it make up for
it; a partition that has fallen quiet is looked at, lest its last events stay invisible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from tidelog.errors import TidelogError

QUIET_S = 1.0
"""How long a partition is quiet before it is looked at, and between two looks."""

LOOKS_MAX = 5
"""How often a marker may be late: they come within milliseconds."""

log = structlog.get_logger(__name__)


class MarkerWatch:
    """One partition's watch. All methods run on the event loop.

    `settled` tells, blocking, whether no transaction is open in the partition; `overdue` is called
    when one has stayed open through all looks.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        run_aside: Callable[[Callable[[], None]], object],
        settled: Callable[[], bool],
        overdue: Callable[[], None],
    ) -> None:
        self._name = name
        self._loop = loop
        self._run_aside = run_aside
        self._is_settled = settled
        self._overdue = overdue
        self._commits = 0
        self._seen = 0
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def committed(self) -> None:
        """A transaction was committed: its marker is due."""
        self._commits += 1
        if self._timer is None:
            self._wait()

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        if not self._stopped:
            self._seen = self._commits
            self._timer = self._loop.call_later(QUIET_S, self._quiet)

    def _quiet(self) -> None:
        if self._commits != self._seen:
            self._looks = 0
            self._wait()
        else:
            self._run_aside(self._look)

    def _look(self) -> None:
        """On a thread of its own: the broker may not answer."""
        found: bool | None
        try:
            found = self._is_settled()
        except TidelogError as error:
            log.info("markers.unseen", partition=self._name, reason=str(error))
            found = None
        self._loop.call_soon_threadsafe(self._looked, found)

    def _looked(self, settled: bool | None) -> None:
        self._timer = None
        if self._stopped:
            return
        if self._commits != self._seen or settled is None:
            self._looks = 0
            self._wait()
        elif settled:
            self._looks = 0
        else:
            self._looks += 1
            if self._looks < LOOKS_MAX:
                self._wait()
            else:
                self._looks = 0
                log.warning("markers.overdue", partition=self._name)
                self._overdue()
