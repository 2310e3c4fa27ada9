"""Times a reader of a log from its first progress on, wherever that progress can be read."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from bench.sample import Sample, Stopwatch
from tidelog.embedded.process import STOP_TIMEOUT_S, Launch, spawn, stop, tail

POLL_S = 0.005
STALLED_S = 100.0


@dataclass(frozen=True)
class Timing:
    """For how long, and whose CPU time is the backend's."""

    seconds: float
    backends: Sequence[int]


class Stalled(Exception):
    """A reader made no progress; the message names it."""


def caught_up(
    name: str, launch: Launch, progress: Callable[[], int], total: int, timing: Timing
) -> Sample:
    """Start a process that reads a log, time it, stop it."""
    with running(launch) as process:

        def alive_at() -> int:
            if process.poll() is not None:
                raise Stalled(f"{name} ended:\n{tail(launch.log)}")
            return progress()

        try:
            return timed(
                alive_at, total, timing.seconds, lambda: Stopwatch(timing.backends, process.pid)
            )
        except TimeoutError as error:
            raise Stalled(f"{name}: {error}\n{tail(launch.log)}") from error


@contextmanager
def running(launch: Launch) -> Iterator[subprocess.Popen[bytes]]:
    """The process, stopped in the end."""
    process = spawn(launch)
    try:
        yield process
    finally:
        stop(process, launch.stop_signal, STOP_TIMEOUT_S)


def timed(
    progress: Callable[[], int], total: int, seconds: float, watch: Callable[[], Stopwatch]
) -> Sample:
    """The events between two moments at which progress was seen.

    Start, joining a group and the first fetch lie before the first; the second is the first one
    after so many seconds, or the end of the log. So whole batches are counted, in whole time.
    """
    seen = _beyond(progress, 0)
    first, stopwatch = seen, watch()
    until = perf_counter() + seconds
    while seen < total and (seen == first or perf_counter() < until):
        seen = _beyond(progress, seen)
    assert seen > first, "the whole log came at once: it is too short to time"
    assert seen <= total, f"{seen} events were counted of {total}"
    return stopwatch.sample(seen - first)


def _beyond(progress: Callable[[], int], seen: int) -> int:
    deadline = perf_counter() + STALLED_S
    while (now := progress()) <= seen:
        if perf_counter() > deadline:
            raise TimeoutError(f"it stands at {seen} for {STALLED_S:.0f} s")
        time.sleep(POLL_S)
    return now
