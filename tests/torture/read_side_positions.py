"""Watches the stored positions of every read model, commit by commit, for one that moves back."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

SAMPLE_S = 0.02
RECONNECT_S = 0.2

Place = tuple[str, int, int, str, int]
_POSITIONS = (
    "SELECT projection, version, generation, context, partition, sequence FROM projection_positions"
)


@dataclass(frozen=True)
class MovedBack:
    """A position that was seen lower than before. `crash` says whether PostgreSQL died between."""

    place: Place
    before: int
    after: int
    crash: bool


@dataclass
class Positions:
    """Samples positions on a thread; what has gone is told when it is stopped."""

    dsn: str
    samples: int = 0
    moved_back: list[MovedBack] = field(default_factory=list)
    now: Mapping[Place, int] = field(default_factory=dict)
    _known: dict[Place, int] = field(default_factory=dict)
    _crashed: bool = False
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as connection:
                    self._watch(connection)
            except psycopg.Error:
                # Only a crash of the server ends a connection that waits for nothing.
                self._crashed = True
                time.sleep(RECONNECT_S)

    def _watch(self, connection: psycopg.Connection[Any]) -> None:
        while not self._stopping.is_set():
            rows = connection.execute(_POSITIONS).fetchall()
            self._take({(*row[:5],): row[5] for row in rows})
            self._stopping.wait(SAMPLE_S)

    def _take(self, positions: Mapping[Place, int]) -> None:
        """One snapshot, held against the one before."""
        for place, sequence in positions.items():
            before = self._known.get(place, 0)
            if sequence < before:
                self.moved_back.append(MovedBack(place, before, sequence, self._crashed))
        self._known = dict(positions)
        self.now = positions
        self._crashed = False
        self.samples += 1
