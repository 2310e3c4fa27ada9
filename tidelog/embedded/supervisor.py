"""Keeps servers running: starts them in the order of their needs, restarts, stops in reverse.

One coroutine per server, all on the main thread: a child started there dies with the process,
not with a worker thread (see process.py). What may block runs in worker threads.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidelog.embedded.data_dir import RecordedProcess, recorded
from tidelog.embedded.process import (
    STOP_TIMEOUT_S,
    Launch,
    Server,
    kill_group,
    spawn,
    stop,
    tail,
)
from tidelog.errors import Unavailable

RESTART_MIN_S = 0.5
RESTART_MAX_S = 10.0
HEALTHY_S = 30.0  # ready for so long, and the next restart is quick again
FIRST_STARTS_MAX = 3  # deaths before it was ever ready; then the stack gives up
# A service that reads a long log from its beginning takes its time: 20,000 events a second, about.
FIRST_READY_TIMEOUT_S = 1_800.0
WATCH_S = 0.1
TELL_S = 5.0  # a service that is not ready yet is asked why so often, and what is new is told

CURES = {
    "No module named": "A module is missing: run ./dev up from a whole checkout, which installs "
    "what requirements.lock names.",
    "Address already in use": "Another program took the port meanwhile: start again.",
    "No space left on device": "The disk is full: free some space and start again.",
    "is not a setting": "Remove that variable from the environment and start again.",
    "Cannot allocate memory": "Too little memory is free: the stack needs about 1.5 GB.",
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A server to keep running, and the names of those that must be ready before it."""

    name: str
    instance: str
    server: Server
    depends_on: tuple[str, ...] = ()


class Observer(Protocol):
    """Who is told what happens."""

    def launched(self) -> None:
        """A process was started: the pids have changed."""

    def say(self, text: str) -> None:
        """A line for the person at the terminal."""


class _Child:
    """A member and its process of the moment."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.launch: Launch | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_once = asyncio.Event()
        self.ready_since: float | None = None
        self.trouble: str | None = None  # that was told

    @property
    def title(self) -> str:
        return f"{self.member.name}-{self.member.instance}"


class Supervisor:
    """The members of one stack."""

    def __init__(self, members: Sequence[Member], observer: Observer) -> None:
        self._children = [_Child(member) for member in members]
        self._observer = observer
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to start everything; returns at once."""
        self._tasks = [asyncio.create_task(self._keep(child)) for child in self._children]

    async def all_ready(self) -> None:
        """Wait until every member was ready once; raises what stopped one of them."""
        waiting = asyncio.create_task(self._all_ready_once())
        try:
            await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            self.check()
        finally:
            waiting.cancel()

    async def failed(self) -> None:
        """Wait for a member that can be kept no longer (a fault of ours) and raise why."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self.check()

    def check(self) -> None:
        """Raise what ended a member's coroutine, if one has ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Stop all in reverse order of their needs, those that do not need one another at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for names in reversed(levels([child.member for child in self._children])):
            level = [child for child in self._children if child.member.name in names]
            await asyncio.gather(*(asyncio.to_thread(_stop, child) for child in level))

    def kill(self) -> None:
        """End everything at once."""
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                kill_group(child.process.pid)

    def processes(self) -> list[RecordedProcess]:
        """What runs now."""
        found = [_recorded(child) for child in self._children]
        return [process for process in found if process is not None]

    async def _keep(self, child: _Child) -> None:
        """Start it when what it needs is ready; start it again whenever it ends."""
        await self._needs_met(child)
        delay_s = RESTART_MIN_S
        starts = 0
        while True:
            starts += 1
            await self._run_once(child, starts)
            if child.ready_since is not None and time.monotonic() - child.ready_since > HEALTHY_S:
                delay_s = RESTART_MIN_S
            self._observer.say(f"{child.title} ended ({_code(child)}); again in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RESTART_MAX_S)

    async def _all_ready_once(self) -> None:
        await asyncio.gather(*(child.ready_once.wait() for child in self._children))

    async def _needs_met(self, child: _Child) -> None:
        needs = child.member.depends_on
        await asyncio.gather(
            *(other.ready_once.wait() for other in self._children if other.member.name in needs)
        )

    async def _run_once(self, child: _Child, starts: int) -> None:
        """Run it until it ends; raises Unavailable when it has never been ready and will not be."""
        server = child.member.server
        await asyncio.to_thread(server.prepare)
        child.ready_since = None
        child.launch = server.launch()
        child.process = spawn(child.launch)
        self._observer.launched()
        began = asked = time.monotonic()
        while child.process.poll() is None:
            if child.ready_since is None and await asyncio.to_thread(server.ready):
                self._now_ready(child, began)
            if child.ready_since is None and time.monotonic() - asked > TELL_S:
                asked = time.monotonic()
                await self._tell_trouble(child)
            if not child.ready_once.is_set() and time.monotonic() - began > FIRST_READY_TIMEOUT_S:
                raise Unavailable(
                    _never_ready(child, f"is not ready after {FIRST_READY_TIMEOUT_S:.0f} s")
                )
            await asyncio.sleep(WATCH_S)
        if not child.ready_once.is_set() and starts >= FIRST_STARTS_MAX:
            raise Unavailable(_never_ready(child, f"ended {starts} times at its start"))

    async def _tell_trouble(self, child: _Child) -> None:
        trouble = await asyncio.to_thread(child.member.server.trouble)
        if trouble is not None and trouble != child.trouble:
            child.trouble = trouble
            self._observer.say(f"{child.title} is not ready: {trouble}")

    def _now_ready(self, child: _Child, began: float) -> None:
        child.ready_since = time.monotonic()
        child.ready_once.set()
        self._observer.say(f"{child.title} ready after {child.ready_since - began:.1f} s")


def levels(members: Sequence[Member]) -> list[frozenset[str]]:
    """The names in the order of their needs: each level needs only those before it."""
    needs = {member.name: set(member.depends_on) for member in members}
    found: list[frozenset[str]] = []
    while needs:
        free = frozenset(name for name, others in needs.items() if not others & needs.keys())
        if not free:
            raise ValueError(f"these services need one another in a circle: {sorted(needs)}")
        found.append(free)
        for name in free:
            del needs[name]
    return found


def _stop(child: _Child) -> None:
    if child.process is not None and child.launch is not None:
        stop(child.process, child.launch.stop_signal, STOP_TIMEOUT_S)


def _recorded(child: _Child) -> RecordedProcess | None:
    if child.process is None or child.launch is None or child.process.poll() is not None:
        return None
    member = child.member
    how = int(child.launch.stop_signal)
    return recorded(member.name, member.instance, child.process.pid, how)


def _code(child: _Child) -> str:
    code = child.process.poll() if child.process is not None else None
    return f"signal {-code}" if code is not None and code < 0 else f"code {code}"


def _never_ready(child: _Child, what: str) -> str:
    log = child.launch.log if child.launch is not None else None
    text = tail(log) if log is not None else ""
    return f"{child.title} {what}; the end of {log}:\n{text}\n{_cure(text)}"


def _cure(text: str) -> str:
    """What to do about the commonest ends."""
    for symptom, cure in CURES.items():
        if symptom in text:
            return cure
    return "Check the machine with: ./dev doctor"
