"""What one side did in one round, and what it cost."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One round of one side. `extra` holds further figures by name (p50_ms, commands/tx …)."""

    operations: int
    seconds: float
    cpu_s: float
    """Of the process that does the work; for a server, of the server."""
    backend_cpu_s: float
    """Of Kafka's or PostgreSQL's processes."""
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


class Side(Protocol):
    """One side of a ratio, set up once and run in rounds. It lives in a process of its own."""

    def run(self, seconds: float) -> Sample:
        """Work for about so long; the time that counts ends with the last answer."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


class Stopwatch:
    """Measures wall time, the worker's CPU time (this process's), and the backend's."""

    def __init__(self, backend: Sequence[int], worker: int | None = None) -> None:
        self._backend = backend
        self._worker = worker
        self._backend_at = cpu_of(backend)
        self._cpu_at = self._cpu()
        self._at = time.perf_counter()

    def sample(self, operations: int, extra: dict[str, float] | None = None) -> Sample:
        """The round that ends now."""
        seconds = time.perf_counter() - self._at
        return Sample(
            operations=operations,
            seconds=seconds,
            cpu_s=self._cpu() - self._cpu_at,
            backend_cpu_s=cpu_of(self._backend) - self._backend_at,
            extra=extra or {},
        )

    def _cpu(self) -> float:
        return time.process_time() if self._worker is None else cpu_of([self._worker])


def cpu_of(pids: Sequence[int]) -> float:
    """The CPU seconds of the processes and of their living children."""
    return sum(_cpu(pid) for root in pids for pid in (root, *children_of(root)))


def children_of(pid: int) -> list[int]:
    """The living children of a process (PostgreSQL works in one per connection)."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in _read(thread).split()]
    return found


def parent_of(pid: int) -> int:
    """The process that started this one."""
    return int(_fields(pid)[1])


def listener_on(port: int) -> int:
    """The process on this machine that listens on the TCP port; 0 where it cannot be seen."""
    inodes = {
        f"socket:[{columns[9]}]"
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for columns in (line.split() for line in _read(Path(table)).splitlines()[1:])
        if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port
    }
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in inodes:
                return int(link.parts[2])
        except OSError:  # the process or the file is gone, or belongs to someone else
            continue
    return 0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which the given share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _cpu(pid: int) -> float:
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""
