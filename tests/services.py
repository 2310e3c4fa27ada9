"""Runs a service as its own process, as it runs for real."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.log_writer import until

READY_S = 30.0


@dataclass
class Running:
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> httpx2.Response | None:
        """The answer, or None where nobody listens yet."""
        try:
            return httpx2.get(self.url + path, trust_env=False)
        except httpx2.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def ready(self) -> bool:
        """Whether /readyz says so."""
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def service(
    module: str, folder: Path, settings: Mapping[str, str], *, wait_until_ready: bool = True
) -> Iterator[Running]:
    """`python -m module` with these settings, told to stop at the end; it must end well."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = folder / f"{module}-{port}.log"
    names = {f"TIDELOG_{name.upper()}": value for name, value in settings.items()}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TIDELOG_")
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**inherited, **names, "TIDELOG_HTTP_PORT": str(port)},
            stdout=output,
            stderr=output,
        )
    running = Running(f"http://127.0.0.1:{port}", process, log)
    try:
        if wait_until_ready:
            until(running.ready, f"{module} is ready", READY_S)
        yield running
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(10)
