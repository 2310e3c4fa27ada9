"""Child processes: how one is started, recognised again, stopped, and seen when it fails."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tidelog.errors import Unavailable

LOG_BYTES_MAX = 50 * 1024 * 1024
TAIL_LINES = 25
TAIL_BYTES_MAX = 64 * 1024
POLL_S = 0.05
KILL_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 15.0
PROBE_TIMEOUT_S = 2.0

ON_LINUX = platform.system() == "Linux"
_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A program to run: its output goes to `log`, and `stop_signal` asks it to end.

    The same signal reaches it when its parent dies (Linux). `user` is `same`, `nobody` or
    `nobody+paths` (see child.py).
    """

    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] | None = None
    folder: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    user: str = "same"


class Server(Protocol):
    """A server that can be prepared once, launched, and asked whether it answers."""

    @property
    def name(self) -> str:
        """What it is called in messages and logs."""

    def prepare(self) -> None:
        """Make the data directory ready; called before every launch, quick when it is."""

    def launch(self) -> Launch:
        """The program to run."""

    def ready(self) -> bool:
        """Whether it answers a real request now; takes at most PROBE_TIMEOUT_S."""

    def trouble(self) -> str | None:
        """Why it is not ready, in its own words; None where it says nothing."""


AnyServer = TypeVar("AnyServer", bound=Server)


class Running(Generic[AnyServer]):
    """A server that runs, until `stop`; also a context manager."""

    def __init__(self, server: AnyServer, launch: Launch, process: subprocess.Popen[bytes]) -> None:
        self.server = server
        self.launch = launch
        self.process = process

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.process.pid

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask it to end; kill it when it has not ended in time."""
        stop(self.process, self.launch.stop_signal, timeout_s)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        kill(self.process)

    def __enter__(self) -> Running[AnyServer]:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_server(server: AnyServer, timeout_s: float) -> Running[AnyServer]:
    """Prepare and launch a server and wait until it answers.

    Call it from a thread that lives as long as the server: the kernel ends a child when the
    thread that made it ends. Raises Unavailable with the tail of its log.
    """
    server.prepare()
    launch = server.launch()
    running = Running(server, launch, spawn(launch))
    try:
        _wait_ready(running, timeout_s)
    except BaseException:
        running.kill()
        raise
    return running


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """Start the program in a session of its own, so that a Ctrl-C reaches only its parent."""
    rotate(launch.log)
    with launch.log.open("ab") as log:
        return subprocess.Popen(
            _tied_to_parent(launch),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if launch.environment is None else dict(launch.environment),
            cwd=launch.folder,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], how: signal.Signals, timeout_s: float) -> None:
    """Send the signal, wait, and kill what is left."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all of its session's process group."""
    kill_group(process.pid)
    process.wait(KILL_TIMEOUT_S)


def kill_group(pid: int) -> None:
    """Send SIGKILL to a process group that may be gone already."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def start_mark(pid: int) -> str | None:
    """A mark that tells this process from a later one with the same pid; None if it is gone."""
    if ON_LINUX:
        return _linux_start_mark(pid)
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def is_same_process(pid: int, mark: str) -> bool:
    """Whether the process with this pid is still the one that was marked."""
    return start_mark(pid) == mark


def rotate(log: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Make the log's folder; set a log that has grown too long aside, one generation of it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > bytes_max:
        log.replace(log.with_name(log.name + ".1"))


def tail(log: Path, lines_max: int = TAIL_LINES) -> str:
    """The last lines of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES_MAX))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines_max:]) or "(the log is empty)"


def _wait_ready(running: Running[AnyServer], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not running.server.ready():
        name, log = running.server.name, running.launch.log
        code = running.process.poll()
        if code is not None:
            raise Unavailable(f"{name} ended with code {code} at its start; {log}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"{name} did not answer in {timeout_s:.0f} s; {log}:\n{tail(log)}")
        time.sleep(POLL_S)


def _tied_to_parent(launch: Launch) -> list[str]:
    if not ON_LINUX:
        return list(launch.command)
    wrapper = [sys.executable, "-I", "-S", str(_CHILD)]
    return [*wrapper, str(int(launch.stop_signal)), str(os.getpid()), launch.user, *launch.command]


def _linux_start_mark(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces; field 3 (state) follows it, field 22 is the start.
    fields = stat.rpartition(")")[2].split()
    if fields[0] == "Z":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{fields[19]}"
