"""Real service processes for tests: started with settings, watched by /readyz, stopped by id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 25.0
ROOT = Path(__file__).parent.parent

# One client for all: to make one is to read all certificates of the system. It keeps no connection,
# for whoever is asked may have been killed since.
HTTP = httpx.Client(timeout=20, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class ServiceProcess:
    """One process of a service, on a free port of its own that it keeps over restarts."""

    module: str
    settings: dict[str, Any]
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process; `wait_ready` tells when it serves."""
        variables = {f"TIDELOG_{name.upper()}": str(value) for name, value in self.settings.items()}
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("TIDELOG_")
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                cwd=ROOT,
                env={**inherited, **variables, "TIDELOG_HTTP_PORT": str(self.port)},
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until /readyz says 200; a process that dies or stays away fails with its log."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            assert time.monotonic() < deadline, f"not ready after {timeout_s} s\n{self.tail()}"
            time.sleep(0.05)

    def get(self, path: str) -> httpx.Response | None:
        """The answer, or None where nobody listens yet; a process that has died fails."""
        try:
            return HTTP.get(self.url + path, timeout=2)
        except httpx.TransportError:
            assert self.process is not None and self.process.poll() is None, self.tail()
            return None

    def ready(self) -> bool:
        """Whether /readyz says so."""
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self.process is None else self.process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.module} did not stop\n{self.tail()}") from None

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def service(
    module: str, folder: Path, settings: Mapping[str, str], *, wait_until_ready: bool = True
) -> Iterator[ServiceProcess]:
    """One process with these settings, told to stop at the end; it must end well."""
    process = ServiceProcess(module, dict(settings), folder / f"{module}.log")
    process.start()
    try:
        if wait_until_ready:
            process.wait_ready()
        yield process
        if process.exit_code is None:
            assert process.stop() == 0, process.tail()
    finally:
        if process.exit_code is None:
            process.kill()


@contextmanager
def running(*services: ServiceProcess) -> Iterator[None]:
    """Start the services one after the other, each ready before the next; stop all at the end."""
    try:
        for service in services:
            service.start()
            service.wait_ready()
        yield
    finally:
        for service in reversed(services):
            service.stop()


def children_of(pid: int) -> list[int]:
    """The processes that it has made."""
    return [
        int(child)
        for listed in Path(f"/proc/{pid}/task").glob("*/children")
        for child in listed.read_text().split()
    ]
