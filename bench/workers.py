"""A side in a process of its own: neither side's heap, threads or collector slow the other."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import structlog

from bench.sample import Sample, Side

SETUP_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
ROUND_SLACK_S = 600.0
"""A rebuild with its proof reads the whole log twice, on a busy machine slowly."""
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class SideSpec:
    """How to make a side. `make` is a top-level callable; its arguments are sent to the process."""

    label: str
    make: Callable[..., Side]
    arguments: tuple[Any, ...]
    has_workers: bool = False
    """Whether the side starts workers of its own, which a daemon may not."""


class SideFailed(Exception):
    """A side raised; its traceback is the message."""


class Worker:
    """The parent's handle on a side's process."""

    def __init__(self, spec: SideSpec) -> None:
        self.label = spec.label
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, spec), daemon=not spec.has_workers
        )
        self._process.start()
        theirs.close()
        try:
            self._answer(SETUP_TIMEOUT_S)
        except SideFailed:
            self.close()
            raise

    def run(self, seconds: float) -> Sample:
        """One round."""
        self._pipe.send(seconds)
        sample = self._answer(seconds + ROUND_SLACK_S)
        assert isinstance(sample, Sample)
        return sample

    def close(self) -> None:
        """Stop the side; kill it where it does not stop."""
        with suppress(OSError):  # it has ended already
            self._pipe.send(None)
        self._process.join(STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self, timeout_s: float) -> Any:
        try:
            if self._pipe.poll(timeout_s):
                answer = self._pipe.recv()
            else:
                answer = f"no answer within {timeout_s:.0f} s"
        except EOFError:
            answer = "its process ended"
        if isinstance(answer, str):
            raise SideFailed(f"{self.label}: {answer}")
        return answer


def _serve(pipe: Connection, spec: SideSpec) -> None:
    """The child: set up, then a round per message until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its children itself
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        side = spec.make(*spec.arguments)
        pipe.send(None)
        while (seconds := pipe.recv()) is not None:
            pipe.send(side.run(seconds))
        side.close()
    except EOFError:  # the parent is gone
        return
    except Exception:
        pipe.send(traceback.format_exc())
