"""The data directory of a stack: who runs on it, what it remembers, and how it is emptied.

`lock` is held (flock) by the supervisor that runs, so it frees itself even when that is killed;
`stack.json` marks the folder as ours and keeps ports and partition count; `pids.json` names the
processes, each with a mark of its start; `dev.json` (WIRE.md) is there while a stack is ready, and
`starting.json`, which says the same, until it is; `joined/` has a file for each instance that
somebody has added to it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidelog.embedded.ports import free_port, is_free, read_json, write_json
from tidelog.embedded.process import POLL_S, is_same_process, kill_group, start_mark
from tidelog.errors import ConfigurationError

FORMAT = 1
STALE_TIMEOUT_S = 5.0
LOCK_NAME = "lock"
JOINED_NAME = "joined"
STARTING_NAME = "starting.json"


@dataclass(frozen=True, kw_only=True)
class RecordedProcess:
    """A process of an earlier or running stack; `mark` tells it from a later one of its pid."""

    name: str
    instance: str
    pid: int
    mark: str
    stop_signal: int = int(signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class JoinedProcess:
    """An instance that was added to a running stack and is nobody's child there."""

    name: str
    instance: str
    pid: int
    mark: str
    url: str
    grpc: str | None


class DataDirectory:
    """One stack's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def dev_json(self) -> Path:
        """How others find the running stack."""
        return self.path / "dev.json"

    @property
    def logs(self) -> Path:
        """Where the output of every process goes."""
        return self.path / "logs"

    def remembered(self) -> dict[str, Any]:
        """What the folder was given at its first start."""
        return read_json(self.path / "stack.json")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other stack off the folder; refuses when one runs on it."""
        _check_ours(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK_NAME).open("a+", encoding="ascii") as file:
            _take(file.fileno(), self.path, file)
            yield

    def is_held(self) -> bool:
        """Whether a stack runs on the folder."""
        lock = self.path / LOCK_NAME
        if not lock.exists():
            return False
        with lock.open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def holder(self) -> int | None:
        """The pid that the holder of the lock wrote down."""
        lock = self.path / LOCK_NAME
        text = lock.read_text(encoding="ascii").strip() if lock.exists() else ""
        return int(text) if text.isdigit() else None

    def settle(self, partitions: int | None, default: int) -> int:
        """The partition count: pinned at the first start, another one is refused."""
        known = self.remembered()
        pinned = int(known.get("partitions", 0)) or partitions or default
        if partitions not in (None, pinned):
            raise ConfigurationError(
                f"{self.path} was made with {pinned} partitions and the count is pinned; leave "
                f"--partitions away, or start anew with --fresh (throws the data away)"
            )
        settled = {"ports": {}, **known, "tidelog": FORMAT, "partitions": pinned}
        write_json(self.path / "stack.json", settled)
        return pinned

    def port(self, name: str, wanted: int = 0) -> int:
        """The port kept under this name; a free one when there is none or another has it."""
        known = self.remembered()
        ports: dict[str, int] = known.get("ports", {})
        kept = ports.get(name, 0)
        if wanted and not is_free("127.0.0.1", wanted):
            raise ConfigurationError(f"port {wanted} ({name}) is taken by another program")
        if wanted:
            ports[name] = wanted
        elif not kept or not is_free("127.0.0.1", kept):
            ports[name] = free_port(taken=frozenset(ports.values()))
        write_json(self.path / "stack.json", {**known, "ports": ports})
        return ports[name]

    def record(self, processes: Sequence[RecordedProcess]) -> None:
        """Write down which processes run, for the next start and for `down`."""
        content = {"processes": [dict(vars(process)) for process in processes]}
        write_json(self.path / "pids.json", content)

    def stale(self) -> list[RecordedProcess]:
        """The recorded processes that still live."""
        found = read_json(self.path / "pids.json").get("processes", [])
        recorded = [RecordedProcess(**entry) for entry in found]
        return [process for process in recorded if is_same_process(process.pid, process.mark)]

    def stop_stale(self) -> list[RecordedProcess]:
        """End what a killed supervisor left behind; returns what that was."""
        left = self.stale()
        for process in left:
            _signal(process.pid, process.stop_signal)
        deadline = time.monotonic() + STALE_TIMEOUT_S
        while self.stale() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for process in self.stale():
            kill_group(process.pid)
        (self.path / "pids.json").unlink(missing_ok=True)
        return left

    def empty(self) -> None:
        """Throw away everything but the lock; called by its holder."""
        for entry in self.path.iterdir():
            if entry.name == LOCK_NAME:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def begin(self, content: Mapping[str, Any]) -> None:
        """Write starting.json: who must help a stack to its feet finds its parts by it."""
        write_json(self.path / STARTING_NAME, content)

    def announce(self, content: Mapping[str, Any]) -> None:
        """Write dev.json."""
        write_json(self.dev_json, content)
        (self.path / STARTING_NAME).unlink(missing_ok=True)

    def join(self, process: JoinedProcess) -> None:
        """Make an instance known to the stack of the folder, for as long as its process lives."""
        folder = self.path / JOINED_NAME
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{process.name}-{process.instance}.json", vars(process))

    def joined(self) -> list[JoinedProcess]:
        """The instances that have been added and still live; the others are forgotten."""
        found = []
        for file in sorted((self.path / JOINED_NAME).glob("*.json")):
            process = JoinedProcess(**read_json(file))
            if is_same_process(process.pid, process.mark):
                found.append(process)
            else:
                file.unlink(missing_ok=True)
        return found

    def withdraw(self) -> None:
        """Remove dev.json: the stack is not there (any more)."""
        self.dev_json.unlink(missing_ok=True)
        (self.path / STARTING_NAME).unlink(missing_ok=True)


def recorded(name: str, instance: str, pid: int, stop_signal: int) -> RecordedProcess | None:
    """The process as it is written down; None when it is gone already."""
    mark = start_mark(pid)
    if mark is None:
        return None
    return RecordedProcess(
        name=name, instance=instance, pid=pid, mark=mark, stop_signal=stop_signal
    )


def _check_ours(path: Path) -> None:
    """Refuse a folder with content that no stack has made."""
    if not path.exists() or (path / "stack.json").exists():
        return
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder; choose another with --data")
    if any(entry.name != LOCK_NAME for entry in path.iterdir()):
        raise ConfigurationError(
            f"{path} holds files but no data of a Tidelog stack (no stack.json); "
            "choose another folder with --data"
        )


def _take(descriptor: int, path: Path, file: Any) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise ConfigurationError(
            f"a stack runs on {path} already (pid {file.read().strip() or 'unknown'}); "
            f"stop it with: ./dev down --data {path}, or choose another folder with --data"
        ) from None
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
