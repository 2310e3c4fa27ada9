"""Worker processes: each takes one task at a time, tells how far it is, and gives back a result.

They are processes because folding is Python's own work. They are made once for a whole command, and
best before it does anything else: a process that has no thread yet is forked, which costs nothing;
any other is started anew, with a second of imports. A worker that loses its parent ends at its next
report; whatever it still wrote by then was written by compare-and-set.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from tidelog import errors
from tidelog.engine.folding import Decisions
from tidelog.engine.heeding import Made
from tidelog.errors import TidelogError
from tidelog.logging import configure_logging
from tidelog.rebuild.site import Report, Site

STOP_TIMEOUT_S = 30.0
WAIT_S = 0.5
NICENESS = 10
"""How far the workers stand back behind what serves, where both want a processor."""

_THREADS = Path("/proc/self/task")


class Interrupted(TidelogError):
    """The work was told to stop before it was done; what was written stays."""


class WorkerFailed(TidelogError):
    """A worker process ended, or failed in a way that nobody foresaw."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What every task of one piece of work is about.

    `made` reads every decision about the projection's events anew, in the order of their log; it
    is sent to the worker processes like all the rest.
    """

    site: Site
    projection: str
    decisions: Decisions = field(default_factory=dict)
    made: Callable[[], Sequence[Made]] | None = None

    def renewed(self) -> World:
        """The same with the decisions as they are now."""
        if self.made is None:
            return self
        found = self.made()
        return replace(self, decisions={(at, sequence): made for at, sequence, made in found})


class Task(Protocol):
    """A piece of work that can be sent to a process. Its result must be, too."""

    def run(self, world: World, report: Report) -> Any:
        """Do it. `report` is called often; once it answers True, come to an end soon."""
        ...


class Workers:
    """Some processes that share tasks. One thread uses it."""

    def __init__(self, count: int) -> None:
        assert count >= 1, "somebody has to do it"
        self.count = count
        self._processes: dict[Connection, BaseProcess] = {}
        forked = _has_no_threads()
        context: SpawnContext | ForkContext = (
            multiprocessing.get_context("fork") if forked else multiprocessing.get_context("spawn")
        )
        for number in range(count):
            ours, theirs = context.Pipe()
            # A worker that kept the parent's end of a pipe would never see that the parent is gone.
            inherited = [*self._processes, ours] if forked else []
            process = context.Process(
                target=_serve, args=(theirs, inherited), name=f"tidelog-bulk-{number}", daemon=True
            )
            process.start()
            theirs.close()
            self._processes[ours] = process

    def run(self, world: World, tasks: Sequence[Task], advance: Callable[[int], None]) -> list[Any]:
        """Do all tasks; their results in order. Raises what the first task that failed raised.

        Interrupted where a Ctrl-C came. Either way the workers have then brought in what they had
        in hand, and can be given other tasks, but for those that have ended.
        """
        if not self._processes:
            raise WorkerFailed("no worker is left. Run the command again.")
        pending = deque(enumerate(tasks))
        results: list[Any] = [None] * len(tasks)
        idle, busy = list(self._processes), dict[Connection, int]()
        try:
            while pending or busy:
                while pending and idle:
                    number, task = pending.popleft()
                    pipe = idle.pop()
                    busy[pipe] = number
                    pipe.send(("task", (world, task)))
                for pipe in self._ready(busy):
                    kind, content = self._receive(pipe)
                    if kind == "events":
                        advance(content)
                    elif kind == "done":
                        results[busy.pop(pipe)] = content
                        idle.append(pipe)
                    else:
                        del busy[pipe]
                        raise _raised(*content)
        except KeyboardInterrupt:
            self._stop(busy)
            raise Interrupted("stopped; what was written stays") from None
        except TidelogError:
            self._stop(busy)
            raise
        return results

    def close(self) -> None:
        """End the processes."""
        for pipe, process in self._processes.items():
            pipe.close()
            process.terminate()
        for process in self._processes.values():
            process.join(STOP_TIMEOUT_S)
        self._processes = {}

    def _ready(self, busy: Collection[Connection]) -> list[Connection]:
        return [pipe for pipe in wait(list(busy), WAIT_S) if isinstance(pipe, Connection)]

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = pipe.recv()
        except (EOFError, OSError) as error:
            process = self._processes.pop(pipe)
            process.join(WAIT_S)
            raise WorkerFailed(
                f"{process.name} ended with {process.exitcode}. Run the command again: it goes "
                "on from what was written."
            ) from error
        return message

    def _stop(self, busy: dict[Connection, int]) -> None:
        """Have the tasks under way bring in what they hold, within a bound."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        open_pipes = set(busy) & set(self._processes)
        for pipe in open_pipes:
            pipe.send(("stop", None))
        while open_pipes and time.monotonic() < deadline:
            for pipe in self._ready(open_pipes):
                if self._receive(pipe)[0] != "events":
                    open_pipes.discard(pipe)


def _raised(name: str, text: str) -> TidelogError:
    """The error of a worker, as the same kind of error where it is one of ours."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, TidelogError):
        return kind(text)
    return WorkerFailed(f"{name}: {text}")


def _has_no_threads() -> bool:
    """Whether a fork is safe: a thread that is not copied with it may hold a lock for ever."""
    return _THREADS.is_dir() and len(list(_THREADS.iterdir())) == 1


# --- in the worker's process ----------------------------------------------------------------


def _serve(pipe: Connection, inherited: Sequence[Connection]) -> None:
    """Do tasks until the parent closes the pipe or is gone."""
    for each in inherited:
        each.close()
    # Ctrl-C goes to every process of the terminal: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Rows and records are no cycles; looking for some takes a tenth of the time. What is there
    # already stays, and need not be looked through after each task.
    gc.disable()
    gc.freeze()
    # Whoever waits for a command or a query goes first.
    os.nice(NICENESS)
    configure_logging("warning", "tidelog", multiprocessing.current_process().name)
    stopping = False

    def report(events: int) -> bool:
        nonlocal stopping
        if events:
            pipe.send(("events", events))
        if not stopping and pipe.poll():
            stopping = pipe.recv()[0] == "stop"
        return stopping

    try:
        while True:
            kind, content = pipe.recv()
            if kind == "stop":
                continue  # it came when the task was done
            stopping = False
            world, task = content
            pipe.send(_done(task, world, report))
            gc.collect()
    except (EOFError, OSError):
        return  # the parent is gone, and with it all need for this


def _done(task: Task, world: World, report: Report) -> tuple[str, Any]:
    try:
        return ("done", task.run(world, report))
    except (EOFError, BrokenPipeError):
        raise
    except TidelogError as error:
        names = [kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__)]
        return ("failed", (names[0], str(error)))
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return ("failed", (type(error).__name__, text))
