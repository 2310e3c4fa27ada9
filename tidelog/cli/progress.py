"""Progress of long work on stderr: a bar for a person, a line of JSON a second for a program."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tidelog.cli.output import say

LINE_S = 1.0


class Bar:
    """A bar with events, events per second, and the time that is left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._began = 0.0
        self._done = 0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, events: int | None) -> None:
        """A new line; the one before it is full."""
        if self._task is not None:
            self._progress.update(self._task, total=self._done, completed=self._done)
        self._began, self._done = time.monotonic(), 0
        self._task = self._progress.add_task(name, total=events, rate="")

    def advance(self, events: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._done += events
        rate = self._done / max(time.monotonic() - self._began, 0.001)
        self._progress.update(self._task, advance=events, rate=f"{rate:,.0f}/s")

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False)


class Lines:
    """The same as lines of JSON, one a second and one for each phase."""

    def __init__(self) -> None:
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._told = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stderr.flush()

    def phase(self, name: str, events: int | None) -> None:
        """A line that the phase begins."""
        self._name, self._total, self._done = name, events, 0
        self._began = time.monotonic()
        self._tell()

    def advance(self, events: int) -> None:
        """Now and then a line."""
        self._done += events
        if time.monotonic() - self._told >= LINE_S:
            self._tell()

    def note(self, text: str) -> None:
        """A line with the text."""
        say(json.dumps({"note": text}, ensure_ascii=False))

    def _tell(self) -> None:
        self._told = time.monotonic()
        seconds = self._told - self._began
        rate = self._done / seconds if seconds > 0 else 0.0
        left = None
        if self._total is not None and rate > 0:
            left = round((self._total - self._done) / rate, 1)
        line = {
            "phase": self._name,
            "events": self._done,
            "total": self._total,
            "events_per_second": round(rate),
            "seconds_left": left,
        }
        say(json.dumps(line))


def progress(as_json: bool) -> Bar | Lines:
    """A bar where a person looks, else lines."""
    return Lines() if as_json or not sys.stderr.isatty() else Bar()
